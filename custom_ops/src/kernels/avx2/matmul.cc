// The products with AVX2, and the same with AVX-VNNI besides.
#include <array>

#include "kernels/avx2/format_kernels.h"
#include "kernels/avx2/quantize.h"
#include "kernels/avx2/simd.h"
#include "kernels/matmul_driver.h"

namespace llama3::avx2 {
namespace {

template <bool kVNNI>
auto make_kernels() {
  return std::to_array<FormatKernels>(
      {q4_0_kernels(kVNNI),    q4_1_kernels(kVNNI),   q5_0_kernels(kVNNI),   q5_1_kernels(kVNNI),
       q8_0_kernels(kVNNI),    q2_k_kernels(kVNNI),   q3_k_kernels(kVNNI),   q4_k_kernels(kVNNI),
       q5_k_kernels(kVNNI),    q6_k_kernels(kVNNI),   iq4_nl_kernels(kVNNI), iq4_xs_kernels(kVNNI),
       mxfp4_kernels(kVNNI),   nvfp4_kernels(kVNNI),  iq1_s_kernels(kVNNI),  iq1_m_kernels(kVNNI),
       iq2_xxs_kernels(kVNNI), iq2_xs_kernels(kVNNI), iq2_s_kernels(kVNNI),  iq3_xxs_kernels(kVNNI),
       iq3_s_kernels(kVNNI),   tq1_0_kernels(kVNNI),  tq2_0_kernels(kVNNI)});
}

template <bool kVNNI>
struct Set {
  using Simd = avx2::Simd;
  using RowBlock = avx2::RowBlock;
  using Column = avx2::Column;
  using Tile = avx2::Tile;
  static constexpr int kTileRows = avx2::kTileRows;
  static constexpr int kGroups = avx2::kGroups;
  static constexpr int kTileColumns = avx2::kTileColumns;
  static constexpr int kStripTiles = 8;  // 25 KB, or 41 KB where weights are int16
  static constexpr auto* quantize_for_rows = avx2::quantize_for_rows;
  static constexpr auto* quantize_for_tiles = avx2::quantize_for_tiles;
  static constexpr auto* make_kernels = avx2::make_kernels<kVNNI>;
};

}  // namespace
}  // namespace llama3::avx2

namespace llama3 {

const MatmulKernels avx2::kMatmul = kMatmulOf<avx2::Set<false>>;
const MatmulKernels avx2_vnni::kMatmul = kMatmulOf<avx2::Set<true>>;

}  // namespace llama3
