// Formats that come through their scalar code: their weights stand in large tables (i-quants), or they are rare.
#include "kernels/avx512/format_kernels.h"
#include "kernels/scalar/unpack.h"

namespace llama3::avx512 {
namespace {

template <Format format>
struct ThroughScalar;

}  // namespace

template <Format format>
inline constexpr bool kPer32<ThroughScalar<format>> = format == Format::kNVFP4;

namespace {

template <Format format>
struct ThroughScalar {
  static constexpr Format kFormat = format;
  static constexpr int kSubBlock = 16;
  static constexpr int kZero = 128;
  static constexpr Minima kMinima = Minima::kNone;

  template <bool kTail>
  static inline __attribute__((always_inline)) void load(const uint8_t* blocks, int count, SuperBlock& out) {
    scalar::Unpacked unpacked;
    scalar::unpack_super_block(format, blocks, count, unpacked);
    out.scale = _mm512_load_ps(unpacked.scale);
#pragma GCC unroll 4
    for (int k = 0; k < 4; k++)
      out.q[k] = _mm512_xor_si512(_mm512_load_si512(unpacked.q + 64 * k), _mm512_set1_epi8(-128));
    if constexpr (kPer32<ThroughScalar>)
      for (int k = 0; k < 4; k += 2) to_even_and_odd(out.q[k], out.q[k + 1], out.q[k], out.q[k + 1]);
  }
};

}  // namespace

FormatKernels unpacked_kernels(Format format) {
  switch (format) {
    case Format::kIQ1_S:
      return kernels_of<ThroughScalar<Format::kIQ1_S>>();
    case Format::kIQ1_M:
      return kernels_of<ThroughScalar<Format::kIQ1_M>>();
    case Format::kIQ2_XXS:
      return kernels_of<ThroughScalar<Format::kIQ2_XXS>>();
    case Format::kIQ2_XS:
      return kernels_of<ThroughScalar<Format::kIQ2_XS>>();
    case Format::kIQ2_S:
      return kernels_of<ThroughScalar<Format::kIQ2_S>>();
    case Format::kIQ3_XXS:
      return kernels_of<ThroughScalar<Format::kIQ3_XXS>>();
    case Format::kIQ3_S:
      return kernels_of<ThroughScalar<Format::kIQ3_S>>();
    case Format::kTQ1_0:
      return kernels_of<ThroughScalar<Format::kTQ1_0>>();
    case Format::kTQ2_0:
      return kernels_of<ThroughScalar<Format::kTQ2_0>>();
    default:
      return kernels_of<ThroughScalar<Format::kNVFP4>>();
  }
}

}  // namespace llama3::avx512
