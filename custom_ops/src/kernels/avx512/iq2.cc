// iq2_xxs, iq2_xs and iq2_s: eight weights an index.
#include "kernels/avx512/format_kernels.h"
#include "kernels/avx512/grids.h"

namespace llama3::avx512 {
namespace {

const scalar::Grids* grid;  // set before the first kernel is handed out

// A float16; then for each 32 weights four indices and a word of 28 sign bits and a scale.
struct IQ2_XXS {
  static constexpr Format kFormat = Format::kIQ2_XXS;
  static constexpr int kSubBlock = 32;
  static constexpr int kZero = 128;
  static constexpr Minima kMinima = Minima::kNone;

  template <bool kTail>
  static inline __attribute__((always_inline)) void load(const uint8_t* block, int, SuperBlock& out) {
    const __m512i codes = _mm512_srli_epi64(_mm512_loadu_si512(block + 2), 60);
    const __m512 numbers = _mm512_cvtepi32_ps(_mm512_castsi256_si512(_mm512_cvtepi64_epi32(codes)));
    out.scale = scales_from_half(numbers, block, 0.25f);
#pragma GCC unroll 4
    for (int k = 0; k < 4; k++) {
      const uint8_t* at = block + 2 + 16 * k;
      const uint64_t indices = load_u32(at) | static_cast<uint64_t>(load_u32(at + 8)) << 32;
      out.q[k] = apply_signs(eights(grid->iq2_xxs, bytes_to_words(indices)),
                             signs_of_words(load_u32(at + 4), load_u32(at + 12)));
    }
  }
};

// A float16; for each eight weights nine bits of index and seven of signs; nibbles of scales.
struct IQ2_XS {
  static constexpr Format kFormat = Format::kIQ2_XS;
  static constexpr int kSubBlock = 16;
  static constexpr int kZero = 128;
  static constexpr Minima kMinima = Minima::kNone;

  template <bool kTail>
  static inline __attribute__((always_inline)) void load(const uint8_t* block, int, SuperBlock& out) {
    out.scale = scales_from_half(nibbles_to_floats(load_u64(block + 66)), block, 0.25f);
#pragma GCC unroll 4
    for (int k = 0; k < 4; k++) {
      const __m128i codes = _mm_loadu_si128(reinterpret_cast<const __m128i*>(block + 2 + 16 * k));
      const __m128i sevens = _mm_cvtepi16_epi8(_mm_srli_epi16(codes, 9));
      const __m256i indices = _mm256_cvtepu16_epi32(_mm_and_si128(codes, _mm_set1_epi16(511)));
      out.q[k] =
          apply_signs(eights(grid->iq2_xs, indices), complete_signs(static_cast<uint64_t>(_mm_cvtsi128_si64(sevens))));
    }
  }
};

// A float16; low bytes of the indices, signs, pairs of high bits, nibbles of scales.
struct IQ2_S {
  static constexpr Format kFormat = Format::kIQ2_S;
  static constexpr int kSubBlock = 16;
  static constexpr int kZero = 128;
  static constexpr Minima kMinima = Minima::kNone;

  template <bool kTail>
  static inline __attribute__((always_inline)) void load(const uint8_t* block, int, SuperBlock& out) {
    out.scale = scales_from_half(nibbles_to_floats(load_u64(block + 74)), block, 0.25f);
#pragma GCC unroll 4
    for (int k = 0; k < 4; k++) {
      const __m256i high = bytes_to_words(_pdep_u64(load_u16(block + 66 + 2 * k), 0x0303030303030303u));
      const __m256i indices = _mm256_or_si256(bytes_to_words(load_u64(block + 2 + 8 * k)), _mm256_slli_epi32(high, 8));
      out.q[k] = apply_signs(eights(grid->iq2_s, indices), load_u64(block + 34 + 8 * k));
    }
  }
};

}  // namespace

FormatKernels iq2_xxs_kernels() {
  grid = &scalar::grids();
  return kernels_of<IQ2_XXS>();
}
FormatKernels iq2_xs_kernels() {
  grid = &scalar::grids();
  return kernels_of<IQ2_XS>();
}
FormatKernels iq2_s_kernels() {
  grid = &scalar::grids();
  return kernels_of<IQ2_S>();
}

}  // namespace llama3::avx512
