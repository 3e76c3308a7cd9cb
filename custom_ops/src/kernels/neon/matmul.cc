// The products with the dot products of Armv8.2.
//
// Held against the portable kernels in an emulator. No Arm processor was at hand, so that no choice in this folder
// rests on a measured time: sizes are those that fit the registers, and the caches of Neoverse and Cortex-A7x cores,
// which have 64 KB and more.
#include <array>

#include "kernels/matmul_driver.h"
#include "kernels/neon/format_kernels.h"
#include "kernels/neon/simd.h"

namespace llama3::neon {
namespace {

auto make_kernels() {
  return std::to_array<FormatKernels>(
      {q4_0_kernels(),  q4_1_kernels(),    q5_0_kernels(),  q5_1_kernels(),  q8_0_kernels(),    q2_k_kernels(),
       q3_k_kernels(),  q4_k_kernels(),    q5_k_kernels(),  q6_k_kernels(),  iq4_nl_kernels(),  iq4_xs_kernels(),
       mxfp4_kernels(), nvfp4_kernels(),   iq1_s_kernels(), iq1_m_kernels(), iq2_xxs_kernels(), iq2_xs_kernels(),
       iq2_s_kernels(), iq3_xxs_kernels(), iq3_s_kernels(), tq1_0_kernels(), tq2_0_kernels()});
}

struct Set {
  using Simd = neon::Simd;
  using RowBlock = neon::Column;
  using Column = neon::Column;
  using Tile = neon::Tile;
  static constexpr int kTileRows = neon::kTileRows;
  static constexpr int kGroups = neon::kGroups;
  static constexpr int kTileColumns = neon::kTileColumns;
  static constexpr int kStripTiles = 8;  // 23 KB
  static constexpr auto* quantize_for_rows = quantize_column;
  static constexpr auto* quantize_for_tiles = quantize_column;
  static constexpr auto* make_kernels = neon::make_kernels;
};

}  // namespace

const MatmulKernels kMatmul = kMatmulOf<Set>;

}  // namespace llama3::neon
