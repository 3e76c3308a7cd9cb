// iq3_xxs and iq3_s: four weights an index.
#include "kernels/avx512/format_kernels.h"
#include "kernels/avx512/grids.h"

namespace llama3::avx512 {
namespace {

const scalar::Grids* grid;  // set before the first kernel is handed out

LLAMA3_INLINE __m512i sixteen_indices(const uint8_t* bytes) {
  return _mm512_cvtepu8_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(bytes)));
}

// A float16, indices, and for each 32 weights a word of 28 sign bits and a scale.
struct IQ3_XXS {
  static constexpr Format kFormat = Format::kIQ3_XXS;
  static constexpr int kSubBlock = 32;
  static constexpr int kZero = 128;
  static constexpr Minima kMinima = Minima::kNone;

  template <bool kTail>
  static inline __attribute__((always_inline)) void load(const uint8_t* block, int, SuperBlock& out) {
    const uint8_t* words = block + 66;
    const __m256i codes = _mm256_srli_epi32(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(words)), 28);
    out.scale = scales_from_half(_mm512_cvtepi32_ps(_mm512_castsi256_si512(codes)), block, 0.5f);
#pragma GCC unroll 4
    for (int k = 0; k < 4; k++)
      out.q[k] = apply_signs(fours(grid->iq3_xxs, sixteen_indices(block + 2 + 16 * k)),
                             signs_of_words(load_u32(words + 8 * k), load_u32(words + 8 * k + 4)));
  }
};

// A float16, low bytes of the indices, their ninth bits, signs, nibbles of scales.
struct IQ3_S {
  static constexpr Format kFormat = Format::kIQ3_S;
  static constexpr int kSubBlock = 32;
  static constexpr int kZero = 128;
  static constexpr Minima kMinima = Minima::kNone;

  template <bool kTail>
  static inline __attribute__((always_inline)) void load(const uint8_t* block, int, SuperBlock& out) {
    const __m512 codes = nibbles_to_floats(load_u32(block + 106));
    out.scale = _mm512_mul_ps(half_to_all(block), _mm512_add_ps(_mm512_set1_ps(1.0f), _mm512_add_ps(codes, codes)));
#pragma GCC unroll 4
    for (int k = 0; k < 4; k++) {
      const __m512i low = sixteen_indices(block + 2 + 16 * k);
      const auto ninth = static_cast<__mmask16>(load_u16(block + 66 + 2 * k));
      const __m512i indices = _mm512_mask_add_epi32(low, ninth, low, _mm512_set1_epi32(256));
      out.q[k] = apply_signs(fours(grid->iq3_s, indices), load_u64(block + 74 + 8 * k));
    }
  }
};

}  // namespace

FormatKernels iq3_xxs_kernels() {
  grid = &scalar::grids();
  return kernels_of<IQ3_XXS>();
}
FormatKernels iq3_s_kernels() {
  grid = &scalar::grids();
  return kernels_of<IQ3_S>();
}

}  // namespace llama3::avx512
