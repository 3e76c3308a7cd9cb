// What the i-quants share: weights come from a grid by an index, four or eight at once, with signs beside it.
#pragma once

#include "kernels/avx2/format_kernels.h"
#include "kernels/scalar/grids.h"

namespace llama3::avx2 {

// All of them have int8 weights and integer scales.
template <Format format, int sub_block>
struct GridFormat {
  static constexpr Format kFormat = format;
  using Scales = IntegerScales;
  static constexpr int kSubBlock = sub_block;
  static constexpr int kZero = 0;
  static constexpr bool kMinima = false;
};

inline const scalar::Grids* grid;  // set before the first kernel is handed out

template <class F>
FormatKernels grid_kernels_of(bool vnni) {
  grid = &scalar::grids();
  return kernels_of<F>(vnni);
}

// 32 weights: the grid's entries number index(0), index(1), ... Loads, and no gather, which is slow on many processors.
template <class Index>
LLAMA3_INLINE __m256i look_up(const int8_t (*grid)[8], Index&& index) {
  const auto entry = [&](int i) { return load_number<long long>(grid[index(i)]); };
  return _mm256_setr_epi64x(entry(0), entry(1), entry(2), entry(3));
}
template <class Index>
LLAMA3_INLINE __m256i look_up(const int8_t (*grid)[4], Index&& index) {
  const auto two = [&](int i) {
    const uint64_t first = load_number<uint32_t>(grid[index(i)]), second = load_number<uint32_t>(grid[index(i + 1)]);
    return static_cast<long long>(first | second << 32);
  };
  return _mm256_setr_epi64x(two(0), two(2), two(4), two(6));
}

// The seven low bits of each byte, completed to eight: an even number of them is set.
LLAMA3_INLINE __m256i complete_signs(__m256i sevens) {
  // What a shift brings from a word's upper byte into its lower one stays above the bits that are used.
  __m256i parity = _mm256_xor_si256(sevens, _mm256_srli_epi16(sevens, 4));
  parity = _mm256_xor_si256(parity, _mm256_srli_epi16(parity, 2));
  parity = _mm256_xor_si256(parity, _mm256_srli_epi16(parity, 1));
  return _mm256_or_si256(sevens, _mm256_slli_epi16(_mm256_and_si256(parity, _mm256_set1_epi8(1)), 7));
}

// The signs of eight times 32 weights.
struct Signs {
  alignas(32) uint32_t of_part[kParts];
  explicit Signs(__m256i words) { _mm256_store_si256(reinterpret_cast<__m256i*>(of_part), words); }
};

// Four times seven sign bits at the lower end of each of eight words.
LLAMA3_INLINE Signs signs_of_words(__m256i words) {
  __m256i sevens = _mm256_and_si256(words, _mm256_set1_epi32(0x7f));
#pragma GCC unroll 3
  for (int i = 1; i < 4; i++)
    sevens = _mm256_or_si256(sevens, _mm256_and_si256(_mm256_slli_epi32(words, i), _mm256_set1_epi32(0x7f << (8 * i))));
  return Signs(complete_signs(sevens));
}

// Weights above zero, negated where a bit is set.
LLAMA3_INLINE __m256i apply_signs(__m256i values, uint32_t negative) {
  const __m256i mask = spread_bits(negative);
  return _mm256_sub_epi8(_mm256_xor_si256(values, mask), mask);
}

// 2 n + 1: most scales are odd numbers.
LLAMA3_INLINE __m256i odd_words(__m256i n) { return _mm256_or_si256(_mm256_slli_epi16(n, 1), _mm256_set1_epi16(1)); }

// The nibbles of eight bytes as 16 words, the low ones first.
LLAMA3_INLINE __m256i nibbles_to_words(const uint8_t* bytes) {
  const __m128i eight = _mm_loadl_epi64(reinterpret_cast<const __m128i*>(bytes));
  const __m128i low = _mm_and_si128(eight, _mm_set1_epi8(15));
  const __m128i high = _mm_and_si128(_mm_srli_epi16(eight, 4), _mm_set1_epi8(15));
  return _mm256_cvtepu8_epi16(_mm_unpacklo_epi8(low, high));
}

}  // namespace llama3::avx2
