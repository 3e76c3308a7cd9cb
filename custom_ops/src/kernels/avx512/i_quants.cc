// iq1_s to iq3_s: each index selects four or eight weights from a grid, and most formats store signs separately.
// iq4_xs: four-bit indices into a codebook.
#include "kernels/avx512/format_kernels.h"
#include "kernels/avx512/super_block.h"
#include "kernels/codebooks.h"
#include "kernels/scalar/grids.h"

namespace llama3::avx512 {
namespace {

const scalar::Grids* grid;  // set before the first kernel is returned

template <class F>
FormatKernels grid_kernels_of() {
  grid = &scalar::grids();
  return kernels_of<F>();
}

LLAMA3_INLINE uint64_t load_u64(const uint8_t* at) {
  uint64_t value;
  __builtin_memcpy(&value, at, sizeof value);
  return value;
}
LLAMA3_INLINE uint32_t load_u32(const uint8_t* at) {
  uint32_t value;
  __builtin_memcpy(&value, at, sizeof value);
  return value;
}
LLAMA3_INLINE uint32_t load_u16(const uint8_t* at) {
  uint16_t value;
  __builtin_memcpy(&value, at, sizeof value);
  return value;
}

LLAMA3_INLINE __m256i bytes_to_words(uint64_t bytes) {
  return _mm256_cvtepu8_epi32(_mm_cvtsi64_si128(static_cast<long long>(bytes)));
}

// Return 64 weights: eight grid entries of eight, or 16 of four.
LLAMA3_INLINE __m512i eights(const int8_t (*grid)[8], __m256i indices) {
  return _mm512_i32gather_epi64(indices, grid, 8);
}
LLAMA3_INLINE __m512i fours(const int8_t (*grid)[4], __m512i indices) {
  return _mm512_i32gather_epi32(indices, grid, 4);
}

// Set the top bit of each byte where an odd number of the other seven is set.
LLAMA3_INLINE uint64_t complete_signs(uint64_t sevens) {
  uint64_t parity = sevens ^ sevens >> 4;
  parity ^= parity >> 2;
  parity ^= parity >> 1;
  return sevens | (parity & 0x0101010101010101u) << 7;
}

// Return the signs in two words: four times seven bits at the low end of each.
LLAMA3_INLINE uint64_t signs_of_words(uint32_t first, uint32_t second) {
  const uint64_t bits = (first & 0x0fffffffu) | static_cast<uint64_t>(second & 0x0fffffffu) << 28;
  return complete_signs(_pdep_u64(bits, 0x7f7f7f7f7f7f7f7fu));
}

// Negate the weights, which are positive, where a bit is set, and return them as the unsigned operands w + 128.
LLAMA3_INLINE __m512i apply_signs(__m512i values, uint64_t negative) {
  const __m512i middle = _mm512_set1_epi8(-128);
  return _mm512_mask_sub_epi8(_mm512_add_epi8(middle, values), _cvtu64_mask64(negative), middle, values);
}

// Return the nibbles of eight bytes as 16 floats, the low nibble of each byte first.
LLAMA3_INLINE __m512 nibbles_to_floats(uint64_t bytes) {
  const __m128i low = _mm_cvtsi64_si128(static_cast<long long>(bytes & 0x0f0f0f0f0f0f0f0fu));
  const __m128i high = _mm_cvtsi64_si128(static_cast<long long>(bytes >> 4 & 0x0f0f0f0f0f0f0f0fu));
  return _mm512_cvtepi32_ps(_mm512_cvtepu8_epi32(_mm_unpacklo_epi8(low, high)));
}

// Return d * (1/2 + code) * factor, which is exact.
LLAMA3_INLINE __m512 scales_from_half(__m512 codes, const uint8_t* d, float factor) {
  return _mm512_mul_ps(_mm512_mul_ps(half_to_all(d), _mm512_add_ps(_mm512_set1_ps(0.5f), codes)),
                       _mm512_set1_ps(factor));
}

// ---- iq1_s and iq1_m: eight weights of -1, 0 or 1 per index, plus or minus 1/8. Eight times a weight is an integer.

// Return 8 w - 1 where a bit is set, and 8 w + 1 elsewhere, plus 128: unsigned operands.
LLAMA3_INLINE __m512i shifted(__m512i weights, uint64_t minus) {
  const __m512i eightfold = _mm512_and_si512(_mm512_slli_epi16(weights, 3), _mm512_set1_epi8(-8));
  const __m512i plus = _mm512_add_epi8(eightfold, _mm512_set1_epi8(-127));
  return _mm512_mask_sub_epi8(plus, _cvtu64_mask64(minus), plus, _mm512_set1_epi8(2));
}

LLAMA3_INLINE __m256i indices_of(uint64_t low, uint64_t high) {
  return _mm256_or_si256(bytes_to_words(low), _mm256_slli_epi32(bytes_to_words(high), 8));
}

// A float16 and the low bytes of the indices; per 32 weights, twelve high bits, a scale and the sign of the 1/8.
struct IQ1_S {
  static constexpr Format kFormat = Format::kIQ1_S;
  static constexpr int kSubBlock = 32;
  static constexpr int kZero = 128;
  static constexpr Minima kMinima = Minima::kNone;

  template <bool kTail>
  LLAMA3_INLINE void load(const uint8_t* block, int, SuperBlock& out) {
    const __m128i words = _mm_loadu_si128(reinterpret_cast<const __m128i*>(block + 34));
    // Twice the code plus one, to be multiplied by 1/8.
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

// The low bytes of the indices; per index, a nibble with three high bits and the sign of the 1/8; three-bit scales in
// words whose top nibbles form the float16.
struct IQ1_M {
  static constexpr Format kFormat = Format::kIQ1_M;
  static constexpr int kSubBlock = 16;
  static constexpr int kZero = 128;
  static constexpr Minima kMinima = Minima::kNone;

  template <bool kTail>
  LLAMA3_INLINE void load(const uint8_t* block, int, SuperBlock& out) {
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

// ---- iq2_xxs, iq2_xs and iq2_s: eight weights per index.

// A float16; per 32 weights, four indices and a word with 28 sign bits and a scale.
struct IQ2_XXS {
  static constexpr Format kFormat = Format::kIQ2_XXS;
  static constexpr int kSubBlock = 32;
  static constexpr int kZero = 128;
  static constexpr Minima kMinima = Minima::kNone;

  template <bool kTail>
  LLAMA3_INLINE void load(const uint8_t* block, int, SuperBlock& out) {
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

// A float16; per eight weights, nine bits of an index and seven of signs; scales in nibbles.
struct IQ2_XS {
  static constexpr Format kFormat = Format::kIQ2_XS;
  static constexpr int kSubBlock = 16;
  static constexpr int kZero = 128;
  static constexpr Minima kMinima = Minima::kNone;

  template <bool kTail>
  LLAMA3_INLINE void load(const uint8_t* block, int, SuperBlock& out) {
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

// A float16, the low bytes of the indices, signs, pairs of high bits, scales in nibbles.
struct IQ2_S {
  static constexpr Format kFormat = Format::kIQ2_S;
  static constexpr int kSubBlock = 16;
  static constexpr int kZero = 128;
  static constexpr Minima kMinima = Minima::kNone;

  template <bool kTail>
  LLAMA3_INLINE void load(const uint8_t* block, int, SuperBlock& out) {
    out.scale = scales_from_half(nibbles_to_floats(load_u64(block + 74)), block, 0.25f);
#pragma GCC unroll 4
    for (int k = 0; k < 4; k++) {
      const __m256i high = bytes_to_words(_pdep_u64(load_u16(block + 66 + 2 * k), 0x0303030303030303u));
      const __m256i indices = _mm256_or_si256(bytes_to_words(load_u64(block + 2 + 8 * k)), _mm256_slli_epi32(high, 8));
      out.q[k] = apply_signs(eights(grid->iq2_s, indices), load_u64(block + 34 + 8 * k));
    }
  }
};

// ---- iq3_xxs and iq3_s: four weights per index.

LLAMA3_INLINE __m512i sixteen_indices(const uint8_t* bytes) {
  return _mm512_cvtepu8_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(bytes)));
}

// A float16, the indices, and per 32 weights a word with 28 sign bits and a scale.
struct IQ3_XXS {
  static constexpr Format kFormat = Format::kIQ3_XXS;
  static constexpr int kSubBlock = 32;
  static constexpr int kZero = 128;
  static constexpr Minima kMinima = Minima::kNone;

  template <bool kTail>
  LLAMA3_INLINE void load(const uint8_t* block, int, SuperBlock& out) {
    const uint8_t* words = block + 66;
    const __m256i codes = _mm256_srli_epi32(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(words)), 28);
    out.scale = scales_from_half(_mm512_cvtepi32_ps(_mm512_castsi256_si512(codes)), block, 0.5f);
#pragma GCC unroll 4
    for (int k = 0; k < 4; k++)
      out.q[k] = apply_signs(fours(grid->iq3_xxs, sixteen_indices(block + 2 + 16 * k)),
                             signs_of_words(load_u32(words + 8 * k), load_u32(words + 8 * k + 4)));
  }
};

// A float16, the low bytes of the indices, their ninth bits, signs, scales in nibbles.
struct IQ3_S {
  static constexpr Format kFormat = Format::kIQ3_S;
  static constexpr int kSubBlock = 32;
  static constexpr int kZero = 128;
  static constexpr Minima kMinima = Minima::kNone;

  template <bool kTail>
  LLAMA3_INLINE void load(const uint8_t* block, int, SuperBlock& out) {
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

// iq4_xs: eight sub-blocks of 32 nibbles that index a codebook, with 6-bit scales.
struct IQ4_XS {
  static constexpr Format kFormat = Format::kIQ4_XS;
  static constexpr int kSubBlock = 32;
  static constexpr int kZero = 128;
  static constexpr Minima kMinima = Minima::kNone;

  template <bool kTail>
  LLAMA3_INLINE void load(const uint8_t* block, int, SuperBlock& out) {
    // Each scale is a nibble in bytes 4 to 7 and a bit pair in bytes 2 and 3, minus 32.
    uint64_t head;
    __builtin_memcpy(&head, block, sizeof head);
    const __m256i low = _mm256_srlv_epi32(_mm256_set1_epi32(static_cast<int>(head >> 32)),
                                          _mm256_setr_epi32(0, 4, 8, 12, 16, 20, 24, 28));
    const __m256i high = _mm256_srlv_epi32(_mm256_set1_epi32(static_cast<int>(head >> 16 & 0xffff)),
                                           _mm256_setr_epi32(0, 2, 4, 6, 8, 10, 12, 14));
    const __m256i six = _mm256_or_si256(_mm256_and_si256(low, _mm256_set1_epi32(15)),
                                        _mm256_slli_epi32(_mm256_and_si256(high, _mm256_set1_epi32(3)), 4));
    const __m256i codes = _mm256_sub_epi32(six, _mm256_set1_epi32(32));
    out.scale = _mm512_mul_ps(_mm512_zextps256_ps512(_mm256_cvtepi32_ps(codes)), half_to_all(block));
    const __m512i codebook = shifted_codebook(kCodebookIQ4);
#pragma GCC unroll 4
    for (int k = 0; k < 4; k++) {
      const uint8_t* bytes = block + 8 + 32 * k;
      out.q[k] = _mm512_shuffle_epi8(codebook, nibbles(doubled_quarters(bytes, bytes + 16), shifts_by_quarter(0, 4)));
    }
  }
};

}  // namespace

template <>
FormatKernels kernels_for<Format::kIQ1_S>() {
  return grid_kernels_of<IQ1_S>();
}
template <>
FormatKernels kernels_for<Format::kIQ1_M>() {
  return grid_kernels_of<IQ1_M>();
}

template <>
FormatKernels kernels_for<Format::kIQ2_XXS>() {
  return grid_kernels_of<IQ2_XXS>();
}
template <>
FormatKernels kernels_for<Format::kIQ2_XS>() {
  return grid_kernels_of<IQ2_XS>();
}
template <>
FormatKernels kernels_for<Format::kIQ2_S>() {
  return grid_kernels_of<IQ2_S>();
}

template <>
FormatKernels kernels_for<Format::kIQ3_XXS>() {
  return grid_kernels_of<IQ3_XXS>();
}
template <>
FormatKernels kernels_for<Format::kIQ3_S>() {
  return grid_kernels_of<IQ3_S>();
}

template <>
FormatKernels kernels_for<Format::kIQ4_XS>() {
  return kernels_of<IQ4_XS>();
}

}  // namespace llama3::avx512
