// q2_k to q6_k: 256 weights in sub-blocks of 16 or 32 with small integer scales (and minima), times a float16.
#include "kernels/avx512/format_kernels.h"
#include "kernels/avx512/super_block.h"

namespace llama3::avx512 {
namespace {

// Load the scales and minima from the first 16 bytes of a block. The low six bits of bytes 4 to 7 are four scales,
// those of bytes 8 to 11 four minima. Bytes 12 to 15 hold the low nibbles of four more of each, whose upper two bits
// are the top bits of bytes 4 to 11.
LLAMA3_INLINE void load_k_scales(const uint8_t* block, SuperBlock& out) {
  const __m128i head = _mm_loadu_si128(reinterpret_cast<const __m128i*>(block));
  // Two 64-bit lanes: four scales and the nibbles of four more, then the same for minima.
  const __m128i bytes = _mm_shuffle_epi8(head, _mm_setr_epi8(4, 5, 6, 7, 12, 13, 14, 15, 8, 9, 10, 11, 12, 13, 14, 15));
  const __m128i low_bits = _mm_and_si128(
      _mm_multishift_epi64_epi8(_mm_setr_epi8(0, 8, 16, 24, 32, 40, 48, 56, 0, 8, 16, 24, 36, 44, 52, 60), bytes),
      _mm_setr_epi8(63, 63, 63, 63, 15, 15, 15, 15, 63, 63, 63, 63, 15, 15, 15, 15));
  const __m128i high_bits = _mm_and_si128(
      _mm_multishift_epi64_epi8(_mm_setr_epi8(0, 0, 0, 0, 2, 10, 18, 26, 0, 0, 0, 0, 2, 10, 18, 26), bytes),
      _mm_setr_epi8(0, 0, 0, 0, 48, 48, 48, 48, 0, 0, 0, 0, 48, 48, 48, 48));
  const __m128i codes = _mm_or_si128(low_bits, high_bits);  // eight scales, eight minima
  const __m512 halves = _mm512_castps128_ps512(_mm_cvtph_ps(head));
  const __m512 factors =
      _mm512_permutexvar_ps(_mm512_setr_epi32(0, 0, 0, 0, 0, 0, 0, 0, 1, 1, 1, 1, 1, 1, 1, 1), halves);
  out.scale = _mm512_mul_ps(_mm512_cvtepi32_ps(_mm512_cvtepu8_epi32(codes)), factors);
  out.min = _mm512_zextps256_ps512(_mm512_extractf32x8_ps(out.scale, 1));
  out.min_codes = _mm256_zextsi128_si256(_mm_cvtepu8_epi16(_mm_srli_si128(codes, 8)));
  out.min_factor = _mm512_permutexvar_ps(_mm512_set1_epi32(1), halves);
}

// q2_k: 16 sub-blocks of 16 two-bit weights; 32 bytes hold 128 weights.
struct Q2_K {
  static constexpr Format kFormat = Format::kQ2_K;
  static constexpr int kSubBlock = 16;
  static constexpr int kZero = 0;
  static constexpr Minima kMinima = Minima::kInteger;

  template <bool kTail>
  LLAMA3_INLINE void load(const uint8_t* block, int, SuperBlock& out) {
    const __m128i codes = _mm_loadu_si128(reinterpret_cast<const __m128i*>(block));
    const __m128i scales = _mm_and_si128(codes, _mm_set1_epi8(15));
    const __m128i minima = _mm_and_si128(_mm_srli_epi16(codes, 4), _mm_set1_epi8(15));
    out.scale = _mm512_mul_ps(_mm512_cvtepi32_ps(_mm512_cvtepu8_epi32(scales)), half_to_all(block + 80));
    out.min_codes = _mm256_cvtepu8_epi16(minima);
    out.min_factor = half_to_all(block + 82);
    out.min = _mm512_mul_ps(_mm512_cvtepi32_ps(_mm512_cvtepu8_epi32(minima)), out.min_factor);
#pragma GCC unroll 4
    for (int k = 0; k < 4; k++) {
      const __m512i bytes = same_halves(block + 16 + 32 * (k / 2));
      const __m512i shifts = k % 2 ? shifts_by_half(4, 6) : shifts_by_half(0, 2);
      out.q[k] = _mm512_and_si512(_mm512_srlv_epi64(bytes, shifts), _mm512_set1_epi8(3));
    }
  }
};

// q3_k: like q2_k without minima, with a third bit of each weight in the first 32 bytes and 6-bit scales.
struct Q3_K {
  static constexpr Format kFormat = Format::kQ3_K;
  static constexpr int kSubBlock = 16;
  static constexpr int kZero = 4;
  static constexpr Minima kMinima = Minima::kNone;

  template <bool kTail>
  LLAMA3_INLINE void load(const uint8_t* block, int, SuperBlock& out) {
    // Each of the 16 scales is a nibble in 8 bytes and a bit pair in 4 bytes, minus 32.
    const __m128i codes = _mm_loadu_si128(reinterpret_cast<const __m128i*>(block + 94));  // scales in bytes 2 to 13
    const __m128i low = _mm_shuffle_epi8(codes, _mm_setr_epi8(2, 3, 4, 5, 6, 7, 8, 9, 2, 3, 4, 5, 6, 7, 8, 9));
    const __m128i high =
        _mm_shuffle_epi8(codes, _mm_setr_epi8(10, 11, 12, 13, 10, 11, 12, 13, 10, 11, 12, 13, 10, 11, 12, 13));
    const __m128i four = _mm_and_si128(_mm_srlv_epi64(low, _mm_set_epi64x(4, 0)), _mm_set1_epi8(15));
    const __m128i two = _mm_and_si128(_mm_srlv_epi32(high, _mm_setr_epi32(0, 2, 4, 6)), _mm_set1_epi8(3));
    const __m128i six = _mm_sub_epi8(_mm_or_si128(four, _mm_slli_epi16(two, 4)), _mm_set1_epi8(32));
    out.scale = _mm512_mul_ps(_mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(six)), half_to_all(block + 108));
    const __m512i high_bits = same_halves(block);
#pragma GCC unroll 4
    for (int k = 0; k < 4; k++) {
      const __m512i bytes = same_halves(block + 32 + 32 * (k / 2));
      const __m512i shifts = k % 2 ? shifts_by_half(4, 6) : shifts_by_half(0, 2);
      const __m512i bits = _mm512_and_si512(_mm512_srlv_epi64(bytes, shifts), _mm512_set1_epi8(3));
      const __m512i bit =
          _mm512_inserti64x4(_mm512_set1_epi8(1 << (2 * k)), _mm256_set1_epi8(static_cast<char>(2 << (2 * k))), 1);
      out.q[k] = _mm512_mask_add_epi8(bits, _mm512_test_epi8_mask(high_bits, bit), bits, _mm512_set1_epi8(4));
    }
  }
};

// q4_k: eight sub-blocks of 32 nibbles; 32 bytes hold two of them.
struct Q4_K {
  static constexpr Format kFormat = Format::kQ4_K;
  static constexpr int kSubBlock = 32;
  static constexpr int kZero = 0;
  static constexpr Minima kMinima = Minima::kInteger;

  template <bool kTail>
  LLAMA3_INLINE void load(const uint8_t* block, int, SuperBlock& out) {
    load_k_scales(block, out);
#pragma GCC unroll 4
    for (int k = 0; k < 4; k++) out.q[k] = nibbles(same_halves(block + 16 + 32 * k), shifts_by_half(0, 4));
  }
};

// q5_k: like q4_k, with a fifth bit of each weight in 32 bytes before the nibbles; bit j belongs to sub-block j.
struct Q5_K {
  static constexpr Format kFormat = Format::kQ5_K;
  static constexpr int kSubBlock = 32;
  static constexpr int kZero = 0;
  static constexpr Minima kMinima = Minima::kInteger;

  template <bool kTail>
  LLAMA3_INLINE void load(const uint8_t* block, int, SuperBlock& out) {
    load_k_scales(block, out);
    const __m512i high_bits = same_halves(block + 16);
#pragma GCC unroll 4
    for (int k = 0; k < 4; k++) {
      const __m512i low = nibbles(same_halves(block + 48 + 32 * k), shifts_by_half(0, 4));
      const __m512i bit =
          _mm512_inserti64x4(_mm512_set1_epi8(1 << (2 * k)), _mm256_set1_epi8(static_cast<char>(2 << (2 * k))), 1);
      out.q[k] = _mm512_mask_add_epi8(low, _mm512_test_epi8_mask(high_bits, bit), low, _mm512_set1_epi8(16));
    }
  }
};

// q6_k: 16 sub-blocks of 16 weights; each half of the block has 64 bytes of nibbles and 32 bytes of bit pairs.
struct Q6_K {
  static constexpr Format kFormat = Format::kQ6_K;
  static constexpr int kSubBlock = 16;
  static constexpr int kZero = 32;
  static constexpr Minima kMinima = Minima::kNone;

  template <bool kTail>
  LLAMA3_INLINE void load(const uint8_t* block, int, SuperBlock& out) {
    const __m128i codes = _mm_loadu_si128(reinterpret_cast<const __m128i*>(block + 192));
    out.scale = _mm512_mul_ps(_mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(codes)), half_to_all(block + 208));
#pragma GCC unroll 4
    for (int k = 0; k < 4; k++) {
      const __m512i low = _mm512_loadu_si512(block + 64 * (k / 2));
      const __m512i high = same_halves(block + 128 + 32 * (k / 2));
      const __m512i four = _mm512_and_si512(k % 2 ? _mm512_srli_epi16(low, 4) : low, _mm512_set1_epi8(15));
      // Rotate the bit pair of each half to bits 4 and 5.
      const __m512i turned = _mm512_rorv_epi64(high, k % 2 ? shifts_by_half(0, 2) : shifts_by_half(60, 62));
      out.q[k] = _mm512_or_si512(four, _mm512_and_si512(turned, _mm512_set1_epi8(48)));
    }
  }
};

}  // namespace

template <>
FormatKernels kernels_for<Format::kQ2_K>() {
  return kernels_of<Q2_K>();
}

template <>
FormatKernels kernels_for<Format::kQ3_K>() {
  return kernels_of<Q3_K>();
}

template <>
FormatKernels kernels_for<Format::kQ4_K>() {
  return kernels_of<Q4_K>();
}

template <>
FormatKernels kernels_for<Format::kQ5_K>() {
  return kernels_of<Q5_K>();
}

template <>
FormatKernels kernels_for<Format::kQ6_K>() {
  return kernels_of<Q6_K>();
}

}  // namespace llama3::avx512
