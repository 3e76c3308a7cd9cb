// iq2_xxs, iq2_xs and iq2_s: eight weights an index.
#include "kernels/avx2/grids.h"

namespace llama3::avx2 {
namespace {

// A float16; then for each 32 weights four indices and a word of 28 sign bits and a scale.
struct IQ2_XXS : GridFormat<Format::kIQ2_XXS, 32> {
  template <bool kTail>
  LLAMA3_INLINE void load(const uint8_t* block, int, __m256i* q, IntegerScales& out) {
    const __m256 first = _mm256_loadu_ps(reinterpret_cast<const float*>(block + 2));
    const __m256 second = _mm256_loadu_ps(reinterpret_cast<const float*>(block + 34));
    const __m256i words = _mm256_permute4x64_epi64(_mm256_castps_si256(_mm256_shuffle_ps(first, second, 0xdd)), 0xd8);
    out.codes = odd_words(to_words(_mm256_srli_epi32(words, 28)));
    out.factor = load_half(block) * 0.125f;
    const Signs signs = signs_of_words(words);
#pragma GCC unroll 8
    for (int k = 0; k < kParts; k++)
      q[k] = apply_signs(look_up(grid->iq2_xxs, [&](int i) { return block[2 + 8 * k + i]; }), signs.of_part[k]);
  }
};

// A float16; for each eight weights nine bits of index and seven of signs; nibbles of scales.
struct IQ2_XS : GridFormat<Format::kIQ2_XS, 16> {
  template <bool kTail>
  LLAMA3_INLINE void load(const uint8_t* block, int, __m256i* q, IntegerScales& out) {
    out.codes = odd_words(nibbles_to_words(block + 66));
    out.factor = load_half(block) * 0.125f;
    const auto code = [&](int i) { return load_number<uint16_t>(block + 2 + 2 * i); };
    const __m256i first = _mm256_srli_epi16(load_32(block + 2), 9), second = _mm256_srli_epi16(load_32(block + 34), 9);
    const Signs signs(complete_signs(_mm256_permute4x64_epi64(_mm256_packus_epi16(first, second), 0xd8)));
#pragma GCC unroll 8
    for (int k = 0; k < kParts; k++)
      q[k] = apply_signs(look_up(grid->iq2_xs, [&](int i) { return code(4 * k + i) & 511; }), signs.of_part[k]);
  }
};

// A float16; low bytes of the indices, signs, pairs of high bits, nibbles of scales.
struct IQ2_S : GridFormat<Format::kIQ2_S, 16> {
  template <bool kTail>
  LLAMA3_INLINE void load(const uint8_t* block, int, __m256i* q, IntegerScales& out) {
    out.codes = odd_words(nibbles_to_words(block + 74));
    out.factor = load_half(block) * 0.125f;
#pragma GCC unroll 8
    for (int k = 0; k < kParts; k++) {
      const auto index = [&](int i) { return block[2 + 4 * k + i] | (block[66 + k] >> (2 * i) & 3) << 8; };
      q[k] = apply_signs(look_up(grid->iq2_s, index), load_number<uint32_t>(block + 34 + 4 * k));
    }
  }
};

}  // namespace

FormatKernels iq2_xxs_kernels(bool vnni) { return grid_kernels_of<IQ2_XXS>(vnni); }
FormatKernels iq2_xs_kernels(bool vnni) { return grid_kernels_of<IQ2_XS>(vnni); }
FormatKernels iq2_s_kernels(bool vnni) { return grid_kernels_of<IQ2_S>(vnni); }

}  // namespace llama3::avx2
