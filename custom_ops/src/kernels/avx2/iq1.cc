// iq1_s and iq1_m: eight weights of -1, 0 or 1 an index, plus or minus an eighth; so eight times that is whole.
#include "kernels/avx2/grids.h"

namespace llama3::avx2 {
namespace {

// 8 w - 1 where a byte of `minus` is 255, and 8 w + 1 where it is 0.
LLAMA3_INLINE __m256i shifted(__m256i weights, __m256i minus) {
  const __m256i eightfold = _mm256_and_si256(_mm256_slli_epi16(weights, 3), _mm256_set1_epi8(-8));
  return _mm256_add_epi8(eightfold, _mm256_or_si256(minus, _mm256_set1_epi8(1)));
}

// A float16 and low bytes of the indices; for each 32 weights twelve high bits, a scale and which way they shift.
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

// Low bytes of the indices; nibbles of three high bits and of which way the eight shift; three-bit scales in words
// whose top nibbles make up the float16.
struct IQ1_M : GridFormat<Format::kIQ1_M, 16> {
  template <bool kTail>
  LLAMA3_INLINE void load(const uint8_t* block, int, __m256i* q, IntegerScales& out) {
    const auto words = load_number<uint64_t>(block + 48);
    const uint64_t tops = words >> 12 & 0x000f000f000f000f;
    out.factor = _cvtsh_ss(static_cast<uint16_t>(tops | tops >> 12 | tops >> 24 | tops >> 36)) * 0.125f;
    // Word i of the scales four times, for its three-bit numbers 0 to 3.
    const __m256i fourfold = _mm256_shuffle_epi8(_mm256_set1_epi64x(static_cast<long long>(words)),
                                                 _mm256_setr_epi8(0, 1, 0, 1, 0, 1, 0, 1, 2, 3, 2, 3, 2, 3, 2, 3, 4, 5,
                                                                  4, 5, 4, 5, 4, 5, 6, 7, 6, 7, 6, 7, 6, 7));
    // Times 2^(13 - 3 i), so that the number is at the top; twice that and one counts.
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

}  // namespace

FormatKernels iq1_s_kernels(bool vnni) { return grid_kernels_of<IQ1_S>(vnni); }
FormatKernels iq1_m_kernels(bool vnni) { return grid_kernels_of<IQ1_M>(vnni); }

}  // namespace llama3::avx2
