// The products with AVX2, and the same with AVX-VNNI besides.
#include "kernels/avx2/format_kernels.h"
#include "kernels/avx2/quantize.h"
#include "kernels/avx2/simd.h"
#include "kernels/matmul_driver.h"

namespace llama3::avx2 {
namespace {

template <bool kVNNI>
FormatKernels make_kernels(Format format) {
  switch (format) {
    case Format::kF32:
      return {{}, nullptr, nullptr, 0, to_floats<Simd, F32Weights>};
    case Format::kF16:
      return {{}, nullptr, nullptr, 0, to_floats<Simd, F16Weights>};
    case Format::kBF16:
      return {{}, nullptr, nullptr, 0, to_floats<Simd, BF16Weights>};
    case Format::kQ4_0:
      return q4_0_kernels(kVNNI);
    case Format::kQ4_1:
      return q4_1_kernels(kVNNI);
    case Format::kQ5_0:
      return q5_0_kernels(kVNNI);
    case Format::kQ5_1:
      return q5_1_kernels(kVNNI);
    case Format::kQ8_0:
      return q8_0_kernels(kVNNI);
    case Format::kQ2_K:
      return q2_k_kernels(kVNNI);
    case Format::kQ3_K:
      return q3_k_kernels(kVNNI);
    case Format::kQ4_K:
      return q4_k_kernels(kVNNI);
    case Format::kQ5_K:
      return q5_k_kernels(kVNNI);
    case Format::kQ6_K:
      return q6_k_kernels(kVNNI);
    case Format::kIQ4_NL:
      return iq4_nl_kernels(kVNNI);
    case Format::kIQ4_XS:
      return iq4_xs_kernels(kVNNI);
    case Format::kMXFP4:
      return mxfp4_kernels(kVNNI);
    case Format::kNVFP4:
      return nvfp4_kernels(kVNNI);
    case Format::kIQ1_S:
      return iq1_s_kernels(kVNNI);
    case Format::kIQ1_M:
      return iq1_m_kernels(kVNNI);
    case Format::kIQ2_XXS:
      return iq2_xxs_kernels(kVNNI);
    case Format::kIQ2_XS:
      return iq2_xs_kernels(kVNNI);
    case Format::kIQ2_S:
      return iq2_s_kernels(kVNNI);
    case Format::kIQ3_XXS:
      return iq3_xxs_kernels(kVNNI);
    case Format::kIQ3_S:
      return iq3_s_kernels(kVNNI);
    case Format::kTQ1_0:
      return tq1_0_kernels(kVNNI);
    case Format::kTQ2_0:
      return tq2_0_kernels(kVNNI);
  }
  return {};
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
