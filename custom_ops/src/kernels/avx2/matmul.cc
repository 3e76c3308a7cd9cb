// Matrix products with AVX2, with and without AVX-VNNI.
#include "kernels/avx2/format_kernels.h"
#include "kernels/avx2/quantize.h"
#include "kernels/avx2/simd.h"
#include "kernels/matmul_driver.h"

namespace llama3::avx2 {
namespace {

template <bool kVNNI>
struct Set {
  using Simd = avx2::Simd;
  using GemvActivations = avx2::GemvActivations;
  using GemmActivations = avx2::GemmActivations;
  using Tile = avx2::Tile;
  static constexpr int kTileRows = avx2::kTileRows;
  static constexpr int kGroups = avx2::kGroups;
  static constexpr int kMaxGemmM = avx2::kMaxGemmM;
  static constexpr int kStripTiles = 8;  // 25 KB, or 41 KB if weights are int16
  static constexpr auto* quantize_for_gemv = avx2::quantize_for_gemv;
  static constexpr auto* quantize_for_gemm = avx2::quantize_for_gemm;
  template <Format format>
  static FormatKernels kernels_for() {
    return avx2::kernels_for<format>(kVNNI);
  }
};

}  // namespace
}  // namespace llama3::avx2

namespace llama3 {

const MatmulKernels avx2::kMatmul = kMatmulOf<avx2::Set<false>>;
const MatmulKernels avx2_vnni::kMatmul = kMatmulOf<avx2::Set<true>>;

}  // namespace llama3
