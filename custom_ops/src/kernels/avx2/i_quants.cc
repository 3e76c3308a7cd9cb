// iq1_s to iq3_s: each index selects four or eight weights from a grid, and most formats store signs separately.
// iq4_xs: four-bit indices into a codebook.
#include "kernels/avx2/format_kernels.h"
#include "kernels/codebooks.h"
#include "kernels/scalar/grids.h"

namespace llama3::avx2 {
namespace {

// A format with a grid: int8 weights and integer scales.
template <Format format, int sub_block>
struct GridFormat {
  static constexpr Format kFormat = format;
  using Scales = IntegerScales;
  static constexpr int kSubBlock = sub_block;
  static constexpr int kZero = 0;
  static constexpr bool kMinima = false;
};

const scalar::Grids* grid;  // set before the first kernel is returned

template <class F>
FormatKernels grid_kernels_of(bool vnni) {
  grid = &scalar::grids();
  return kernels_of<F>(vnni);
}

// Return 32 weights: the grid's entries index(0), index(1), ... Plain loads, because gather is slow on many processors.
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

// Set the top bit of each byte where an odd number of the other seven is set.
LLAMA3_INLINE __m256i complete_signs(__m256i sevens) {
  // Bits that a shift moves from a word's upper byte into its lower one stay above the bits that are used.
  __m256i parity = _mm256_xor_si256(sevens, _mm256_srli_epi16(sevens, 4));
  parity = _mm256_xor_si256(parity, _mm256_srli_epi16(parity, 2));
  parity = _mm256_xor_si256(parity, _mm256_srli_epi16(parity, 1));
  return _mm256_or_si256(sevens, _mm256_slli_epi16(_mm256_and_si256(parity, _mm256_set1_epi8(1)), 7));
}

// The signs of 8 x 32 weights, one bit each.
struct Signs {
  alignas(32) uint32_t of_part[kParts];
  explicit Signs(__m256i words) { _mm256_store_si256(reinterpret_cast<__m256i*>(of_part), words); }
};

// Return the signs in eight words: four times seven bits at the low end of each.
LLAMA3_INLINE Signs signs_of_words(__m256i words) {
  __m256i sevens = _mm256_and_si256(words, _mm256_set1_epi32(0x7f));
#pragma GCC unroll 3
  for (int i = 1; i < 4; i++)
    sevens = _mm256_or_si256(sevens, _mm256_and_si256(_mm256_slli_epi32(words, i), _mm256_set1_epi32(0x7f << (8 * i))));
  return Signs(complete_signs(sevens));
}

// Negate the weights, which are positive, where a bit is set.
LLAMA3_INLINE __m256i apply_signs(__m256i values, uint32_t negative) {
  const __m256i mask = spread_bits(negative);
  return _mm256_sub_epi8(_mm256_xor_si256(values, mask), mask);
}

// Return 2 n + 1: most scales are odd numbers.
LLAMA3_INLINE __m256i odd_words(__m256i n) { return _mm256_or_si256(_mm256_slli_epi16(n, 1), _mm256_set1_epi16(1)); }

// Return the nibbles of eight bytes as 16 words, the low nibble of each byte first.
LLAMA3_INLINE __m256i nibbles_to_words(const uint8_t* bytes) {
  const __m128i eight = _mm_loadl_epi64(reinterpret_cast<const __m128i*>(bytes));
  const __m128i low = _mm_and_si128(eight, _mm_set1_epi8(15));
  const __m128i high = _mm_and_si128(_mm_srli_epi16(eight, 4), _mm_set1_epi8(15));
  return _mm256_cvtepu8_epi16(_mm_unpacklo_epi8(low, high));
}

// ---- iq1_s and iq1_m: eight weights of -1, 0 or 1 per index, plus or minus 1/8. Eight times a weight is an integer.

// Return 8 w - 1 where a byte of `minus` is 255, and 8 w + 1 where it is 0.
LLAMA3_INLINE __m256i shifted(__m256i weights, __m256i minus) {
  const __m256i eightfold = _mm256_and_si256(_mm256_slli_epi16(weights, 3), _mm256_set1_epi8(-8));
  return _mm256_add_epi8(eightfold, _mm256_or_si256(minus, _mm256_set1_epi8(1)));
}

// A float16 and the low bytes of the indices; per 32 weights, twelve high bits, a scale and the sign of the 1/8.
struct IQ1_S : GridFormat<Format::kIQ1_S, 32> {
  template <bool kTail>
  LLAMA3_INLINE void load(const uint8_t* block, int, __m256i* q, IntegerScales& out) {
    const __m128i words = load_16(block + 34);
    const __m128i threes = _mm_and_si128(_mm_srli_epi16(words, 12), _mm_set1_epi16(7));
    out.codes = odd_words(_mm256_zextsi128_si256(threes));
    out.factor = load_half(block) * 0.125f;
#pragma GCC unroll 8
    for (int k = 0; k < kParts; k++) {
      const uint32_t high = load_number<uint16_t>(block + 34 + 2 * k);
      const auto index = [&](int i) { return block[2 + 4 * k + i] | (high >> (3 * i) & 7) << 8; };
      q[k] = shifted(look_up(grid->iq1, index), _mm256_set1_epi8(high & 0x8000 ? -1 : 0));
    }
  }
};

// The low bytes of the indices; per index, a nibble with three high bits and the sign of the 1/8; three-bit scales in
// words whose top nibbles form the float16.
struct IQ1_M : GridFormat<Format::kIQ1_M, 16> {
  template <bool kTail>
  LLAMA3_INLINE void load(const uint8_t* block, int, __m256i* q, IntegerScales& out) {
    const auto words = load_number<uint64_t>(block + 48);
    const uint64_t tops = words >> 12 & 0x000f000f000f000f;
    out.factor = _cvtsh_ss(static_cast<uint16_t>(tops | tops >> 12 | tops >> 24 | tops >> 36)) * 0.125f;
    // Each word of the scales four times, for its three-bit numbers 0 to 3.
    const __m256i fourfold = _mm256_shuffle_epi8(_mm256_set1_epi64x(static_cast<long long>(words)),
                                                 _mm256_setr_epi8(0, 1, 0, 1, 0, 1, 0, 1, 2, 3, 2, 3, 2, 3, 2, 3, 4, 5,
                                                                  4, 5, 4, 5, 4, 5, 6, 7, 6, 7, 6, 7, 6, 7));
    // Times 2^(13 - 3 i) moves number i to the top. The scale is twice the number plus one.
    const __m256i tops_of_words = _mm256_mullo_epi16(fourfold, _mm256_set1_epi64x(0x0010'0080'0400'2000));
    out.codes = odd_words(_mm256_srli_epi16(tops_of_words, 13));
#pragma GCC unroll 8
    for (int k = 0; k < kParts; k++) {
      const uint32_t nibbles = load_number<uint16_t>(block + 32 + 2 * k);
      const auto index = [&](int i) { return block[4 * k + i] | (nibbles >> (4 * i) & 7) << 8; };
      const uint32_t spread = (nibbles & 0x00ff) | (nibbles & 0xff00) << 8;
      const uint32_t minus = ((spread >> 3 & 0x00010001) | (spread << 1 & 0x01000100)) * 255;
      q[k] = shifted(look_up(grid->iq1, index), spread_bytes(minus));
    }
  }
};

// ---- iq2_xxs, iq2_xs and iq2_s: eight weights per index.

// A float16; per 32 weights, four indices and a word with 28 sign bits and a scale.
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

// A float16; per eight weights, nine bits of an index and seven of signs; scales in nibbles.
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

// A float16, the low bytes of the indices, signs, pairs of high bits, scales in nibbles.
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

// ---- iq3_xxs and iq3_s: four weights per index.

// A float16, the indices, and per 32 weights a word with 28 sign bits and a scale.
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

// A float16, the low bytes of the indices, their ninth bits, signs, scales in nibbles.
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

// iq4_xs: eight sub-blocks of 32 nibbles that index a codebook, with 6-bit scales.
struct IQ4_XS {
  static constexpr Format kFormat = Format::kIQ4_XS;
  using Scales = IntegerScales;
  static constexpr int kSubBlock = 32;
  static constexpr int kZero = 0;
  static constexpr bool kMinima = false;

  template <bool kTail>
  LLAMA3_INLINE void load(const uint8_t* block, int, __m256i* q, IntegerScales& out) {
    // Each scale is a nibble in bytes 4 to 7 and a bit pair in bytes 2 and 3, minus 32.
    const __m256i low = _mm256_srlv_epi32(_mm256_set1_epi32(load_number<int32_t>(block + 4)),
                                          _mm256_setr_epi32(0, 4, 8, 12, 16, 20, 24, 28));
    const __m256i high = _mm256_srlv_epi32(_mm256_set1_epi32(load_number<uint16_t>(block + 2)),
                                           _mm256_setr_epi32(0, 2, 4, 6, 8, 10, 12, 14));
    const __m256i six = _mm256_or_si256(_mm256_and_si256(low, _mm256_set1_epi32(15)),
                                        _mm256_slli_epi32(_mm256_and_si256(high, _mm256_set1_epi32(3)), 4));
    out.codes = to_words(_mm256_sub_epi32(six, _mm256_set1_epi32(32)));
    out.factor = load_half(block);
    const __m256i codebook = shifted_codebook(kCodebookIQ4, kZero);
#pragma GCC unroll 8
    for (int k = 0; k < kParts; k++) q[k] = _mm256_shuffle_epi8(codebook, both_nibbles(block + 8 + 16 * k));
  }
};

}  // namespace

template <>
FormatKernels kernels_for<Format::kIQ1_S>(bool vnni) {
  return grid_kernels_of<IQ1_S>(vnni);
}
template <>
FormatKernels kernels_for<Format::kIQ1_M>(bool vnni) {
  return grid_kernels_of<IQ1_M>(vnni);
}

template <>
FormatKernels kernels_for<Format::kIQ2_XXS>(bool vnni) {
  return grid_kernels_of<IQ2_XXS>(vnni);
}
template <>
FormatKernels kernels_for<Format::kIQ2_XS>(bool vnni) {
  return grid_kernels_of<IQ2_XS>(vnni);
}
template <>
FormatKernels kernels_for<Format::kIQ2_S>(bool vnni) {
  return grid_kernels_of<IQ2_S>(vnni);
}

template <>
FormatKernels kernels_for<Format::kIQ3_XXS>(bool vnni) {
  return grid_kernels_of<IQ3_XXS>(vnni);
}
template <>
FormatKernels kernels_for<Format::kIQ3_S>(bool vnni) {
  return grid_kernels_of<IQ3_S>(vnni);
}

template <>
FormatKernels kernels_for<Format::kIQ4_XS>(bool vnni) {
  return kernels_of<IQ4_XS>(vnni);
}

}  // namespace llama3::avx2
