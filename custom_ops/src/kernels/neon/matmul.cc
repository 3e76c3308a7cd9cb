// Matrix products with the dot-product instructions of Armv8.2.
//
// These are tested against the portable kernels in an emulator. Nothing in this folder was tuned by measuring time,
// because no Arm processor was available. Sizes are chosen to fit the registers, and the caches of Neoverse and
// Cortex-A7x cores, which have 64 KB or more.
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
