// iq1_s and iq1_m: eight weights of -1, 0 or 1 an index, plus or minus an eighth; so eight times that is whole.
#include "kernels/avx512/format_kernels.h"
#include "kernels/avx512/grids.h"

namespace llama3::avx512 {
namespace {

const scalar::Grids* grid;  // set before the first kernel is handed out

// 8 w - 1 where a bit is set and 8 w + 1 elsewhere, as the unsigned operands that are 128 above it.
LLAMA3_INLINE __m512i shifted(__m512i weights, uint64_t minus) {
  const __m512i eightfold = _mm512_and_si512(_mm512_slli_epi16(weights, 3), _mm512_set1_epi8(-8));
  const __m512i plus = _mm512_add_epi8(eightfold, _mm512_set1_epi8(-127));
  return _mm512_mask_sub_epi8(plus, _cvtu64_mask64(minus), plus, _mm512_set1_epi8(2));
}

LLAMA3_INLINE __m256i indices_of(uint64_t low, uint64_t high) {
  return _mm256_or_si256(bytes_to_words(low), _mm256_slli_epi32(bytes_to_words(high), 8));
}

// A float16 and low bytes of the indices; for each 32 weights twelve high bits, a scale and which way they shift.
struct IQ1_S {
  static constexpr Format kFormat = Format::kIQ1_S;
  static constexpr int kSubBlock = 32;
  static constexpr int kZero = 128;
  static constexpr Minima kMinima = Minima::kNone;

  template <bool kTail>
  static inline __attribute__((always_inline)) void load(const uint8_t* block, int, SuperBlock& out) {
    const __m128i words = _mm_loadu_si128(reinterpret_cast<const __m128i*>(block + 34));
    // Twice the code plus one, of which an eighth counts.
    const __m128i odd = _mm_or_si128(_mm_and_si128(_mm_srli_epi16(words, 11), _mm_set1_epi16(14)), _mm_set1_epi16(1));
    const __m512 codes = _mm512_cvtepi32_ps(_mm512_castsi256_si512(_mm256_cvtepu16_epi32(odd)));
    out.scale = _mm512_mul_ps(_mm512_mul_ps(half_to_all(block), codes), _mm512_set1_ps(0.125f));
#pragma GCC unroll 4
    for (int k = 0; k < 4; k++) {
      const uint32_t first = load_u16(block + 34 + 4 * k), second = load_u16(block + 36 + 4 * k);
      const uint64_t high = _pdep_u64((first & 0xfff) | (second & 0xfff) << 12, 0x0707070707070707u);
      const uint64_t minus = (first & 0x8000 ? 0xffffffffu : 0) | (second & 0x8000 ? 0xffffffff00000000u : 0);
      out.q[k] = shifted(eights(grid->iq1, indices_of(load_u64(block + 2 + 8 * k), high)), minus);
    }
  }
};

// Low bytes of the indices; nibbles of three high bits and of which way the eight shift; three-bit scales in words
// whose top nibbles make up the float16.
struct IQ1_M {
  static constexpr Format kFormat = Format::kIQ1_M;
  static constexpr int kSubBlock = 16;
  static constexpr int kZero = 128;
  static constexpr Minima kMinima = Minima::kNone;

  template <bool kTail>
  static inline __attribute__((always_inline)) void load(const uint8_t* block, int, SuperBlock& out) {
    const uint64_t words = load_u64(block + 48);
    const auto d = static_cast<uint16_t>(_pext_u64(words, 0xf000f000f000f000u));
    const uint64_t threes = _pext_u64(words, 0x0fff0fff0fff0fffu);
    const __m128i bytes = _mm_set_epi64x(static_cast<long long>(_pdep_u64(threes >> 24, 0x0e0e0e0e0e0e0e0eu)),
                                         static_cast<long long>(_pdep_u64(threes, 0x0e0e0e0e0e0e0e0eu)));
    const __m128i odd = _mm_or_si128(bytes, _mm_set1_epi8(1));
    out.scale =
        _mm512_mul_ps(_mm512_mul_ps(_mm512_set1_ps(_cvtsh_ss(d)), _mm512_cvtepi32_ps(_mm512_cvtepu8_epi32(odd))),
                      _mm512_set1_ps(0.125f));
#pragma GCC unroll 4
    for (int k = 0; k < 4; k++) {
      const uint32_t nibbles = load_u32(block + 32 + 4 * k);
      const uint64_t spread = _pdep_u64(nibbles, 0x0f0f0f0f0f0f0f0fu);
      const uint64_t minus = (spread >> 3 & 0x0101010101010101u) * 255;
      const uint64_t high = spread & 0x0707070707070707u;
      out.q[k] = shifted(eights(grid->iq1, indices_of(load_u64(block + 8 * k), high)), minus);
    }
  }
};

}  // namespace

FormatKernels iq1_s_kernels() {
  grid = &scalar::grids();
  return kernels_of<IQ1_S>();
}
FormatKernels iq1_m_kernels() {
  grid = &scalar::grids();
  return kernels_of<IQ1_M>();
}

}  // namespace llama3::avx512
