// The products with the dot products of Armv8.2.
//
// Held against the portable kernels in an emulator. No Arm processor was at hand, so that no choice in this folder
// rests on a measured time: sizes are those that fit the registers, and the caches of Neoverse and Cortex-A7x cores,
// which have 64 KB and more.
#include "kernels/matmul_driver.h"
#include "kernels/neon/format_kernels.h"
#include "kernels/neon/simd.h"

namespace llama3::neon {
namespace {

struct Set {
  using Simd = neon::Simd;
  using GemvActivations = neon::PackedActivations;
  using GemmActivations = neon::PackedActivations;
  using Tile = neon::Tile;
  static constexpr int kTileRows = neon::kTileRows;
  static constexpr int kGroups = neon::kGroups;
  static constexpr int kMaxGemmM = neon::kMaxGemmM;
  static constexpr int kStripTiles = 8;  // 23 KB
  static constexpr auto* quantize_for_gemv = quantize;
  static constexpr auto* quantize_for_gemm = quantize;
  template <Format format>
  static FormatKernels kernels_for() {
    return neon::kernels_for<format>();
  }
};

}  // namespace

const MatmulKernels kMatmul = kMatmulOf<Set>;

}  // namespace llama3::neon
