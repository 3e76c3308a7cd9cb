// The products with the dot products of Armv8.2.
//
// Held against the portable kernels in an emulator. No Arm processor was at hand, so that no choice in this folder
// rests on a measured time: sizes are those that fit the registers, and the caches of Neoverse and Cortex-A7x cores (64
// KB and more).
#include "kernels/matmul_driver.h"
#include "kernels/neon/format_kernels.h"
#include "kernels/neon/simd.h"

namespace llama3::neon {
namespace {

FormatKernels make_kernels(Format format) {
  switch (format) {
    case Format::kF32:
      return {{}, nullptr, nullptr, 0, to_floats<Simd, F32Weights>};
    case Format::kF16:
      return {{}, nullptr, nullptr, 0, to_floats<Simd, F16Weights>};
    case Format::kBF16:
      return {{}, nullptr, nullptr, 0, to_floats<Simd, BF16Weights>};
    case Format::kQ4_0:
      return q4_0_kernels();
    case Format::kQ4_1:
      return q4_1_kernels();
    case Format::kQ5_0:
      return q5_0_kernels();
    case Format::kQ5_1:
      return q5_1_kernels();
    case Format::kQ8_0:
      return q8_0_kernels();
    case Format::kQ2_K:
      return q2_k_kernels();
    case Format::kQ3_K:
      return q3_k_kernels();
    case Format::kQ4_K:
      return q4_k_kernels();
    case Format::kQ5_K:
      return q5_k_kernels();
    case Format::kQ6_K:
      return q6_k_kernels();
    case Format::kIQ4_NL:
      return iq4_nl_kernels();
    case Format::kIQ4_XS:
      return iq4_xs_kernels();
    case Format::kMXFP4:
      return mxfp4_kernels();
    case Format::kNVFP4:
      return nvfp4_kernels();
    case Format::kIQ1_S:
      return iq1_s_kernels();
    case Format::kIQ1_M:
      return iq1_m_kernels();
    case Format::kIQ2_XXS:
      return iq2_xxs_kernels();
    case Format::kIQ2_XS:
      return iq2_xs_kernels();
    case Format::kIQ2_S:
      return iq2_s_kernels();
    case Format::kIQ3_XXS:
      return iq3_xxs_kernels();
    case Format::kIQ3_S:
      return iq3_s_kernels();
    case Format::kTQ1_0:
      return tq1_0_kernels();
    case Format::kTQ2_0:
      return tq2_0_kernels();
  }
  return {};
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
