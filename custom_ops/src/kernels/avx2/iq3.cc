// iq3_xxs and iq3_s: four weights an index.
#include "kernels/avx2/grids.h"

namespace llama3::avx2 {
namespace {

// A float16, indices, and for each 32 weights a word of 28 sign bits and a scale.
struct IQ3_XXS : GridFormat<Format::kIQ3_XXS, 32> {
  template <bool kTail>
  LLAMA3_INLINE void load(const uint8_t* block, int, __m256i* q, IntegerScales& out) {
    const __m256i words = load_32(block + 66);
    out.codes = odd_words(to_words(_mm256_srli_epi32(words, 28)));
    out.factor = load_half(block) * 0.25f;
    const Signs signs = signs_of_words(words);
#pragma GCC unroll 8
    for (int k = 0; k < kParts; k++)
      q[k] = apply_signs(look_up(grid->iq3_xxs, [&](int i) { return block[2 + 8 * k + i]; }), signs.of_part[k]);
  }
};

// A float16, low bytes of the indices, their ninth bits, signs, nibbles of scales.
struct IQ3_S : GridFormat<Format::kIQ3_S, 32> {
  template <bool kTail>
  LLAMA3_INLINE void load(const uint8_t* block, int, __m256i* q, IntegerScales& out) {
    const __m256i shifts = _mm256_setr_epi32(0, 4, 8, 12, 16, 20, 24, 28);
    const __m256i nibbles = _mm256_srlv_epi32(_mm256_set1_epi32(load_number<int32_t>(block + 106)), shifts);
    out.codes = odd_words(to_words(_mm256_and_si256(nibbles, _mm256_set1_epi32(15))));
    out.factor = load_half(block);
#pragma GCC unroll 8
    for (int k = 0; k < kParts; k++) {
      const auto index = [&](int i) { return block[2 + 8 * k + i] | (block[66 + k] >> i & 1) << 8; };
      q[k] = apply_signs(look_up(grid->iq3_s, index), load_number<uint32_t>(block + 74 + 4 * k));
    }
  }
};

}  // namespace

FormatKernels iq3_xxs_kernels(bool vnni) { return grid_kernels_of<IQ3_XXS>(vnni); }
FormatKernels iq3_s_kernels(bool vnni) { return grid_kernels_of<IQ3_S>(vnni); }

}  // namespace llama3::avx2
