// The products with AVX-512 VNNI.
#include <array>

#include "kernels/avx512/format_kernels.h"
#include "kernels/avx512/quantize.h"
#include "kernels/avx512/simd.h"
#include "kernels/matmul_driver.h"

namespace llama3::avx512 {
namespace {

auto make_kernels() {
  return std::to_array<FormatKernels>(
      {q4_0_kernels(),  q4_1_kernels(),    q5_0_kernels(),  q5_1_kernels(),  q8_0_kernels(),    q2_k_kernels(),
       q3_k_kernels(),  q4_k_kernels(),    q5_k_kernels(),  q6_k_kernels(),  iq4_nl_kernels(),  iq4_xs_kernels(),
       mxfp4_kernels(), nvfp4_kernels(),   iq1_s_kernels(), iq1_m_kernels(), iq2_xxs_kernels(), iq2_xs_kernels(),
       iq2_s_kernels(), iq3_xxs_kernels(), iq3_s_kernels(), tq1_0_kernels(), tq2_0_kernels()});
}

struct Set {
  using Simd = avx512::Simd;
  using RowBlock = ActivationBlock;
  using Column = avx512::Column;
  using Tile = avx512::Tile;
  static constexpr int kTileRows = avx512::kTileRows;
  static constexpr int kGroups = avx512::kGroups;
  static constexpr int kTileColumns = avx512::kTileColumns;
  static constexpr int kStripTiles = 4;  // 25 KB
  static constexpr auto* quantize_for_rows = avx512::quantize_for_rows;
  static constexpr auto* quantize_for_tiles = avx512::quantize_for_tiles;
  static constexpr auto* make_kernels = avx512::make_kernels;
};

}  // namespace

const MatmulKernels kMatmul = kMatmulOf<Set>;

}  // namespace llama3::avx512
