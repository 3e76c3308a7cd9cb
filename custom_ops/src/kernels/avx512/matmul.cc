// Matrix products with AVX-512 VNNI.
#include "kernels/avx512/format_kernels.h"
#include "kernels/avx512/quantize.h"
#include "kernels/avx512/simd.h"
#include "kernels/matmul_driver.h"

namespace llama3::avx512 {
namespace {

struct Set {
  using Simd = avx512::Simd;
  using GemvActivations = ActivationBlock;
  using GemmActivations = avx512::GemmActivations;
  using Tile = avx512::Tile;
  static constexpr int kTileRows = avx512::kTileRows;
  static constexpr int kGroups = avx512::kGroups;
  static constexpr int kMaxGemmM = avx512::kMaxGemmM;
  static constexpr int kStripTiles = 4;  // 25 KB
  static constexpr auto* quantize_for_gemv = avx512::quantize_for_gemv;
  static constexpr auto* quantize_for_gemm = avx512::quantize_for_gemm;
  template <Format format>
  static FormatKernels kernels_for() {
    return avx512::kernels_for<format>();
  }
};

}  // namespace

const MatmulKernels kMatmul = kMatmulOf<Set>;

}  // namespace llama3::avx512
