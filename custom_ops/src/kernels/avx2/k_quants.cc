// q2_k to q6_k: 256 weights in sub-blocks of 16 or 32 with small integer scales (and minima), times a float16.
#include "kernels/avx2/format_kernels.h"
#include "kernels/avx2/super_block.h"

namespace llama3::avx2 {
namespace {

// Load the scales and minima from the first 16 bytes of a block. The low six bits of bytes 4 to 7 are four scales,
// those of bytes 8 to 11 four minima. Bytes 12 to 15 hold the low nibbles of four more of each, whose upper two bits
// are the top bits of bytes 4 to 11.
LLAMA3_INLINE void load_k_scales(const uint8_t* block, IntegerScales& out) {
  const auto scales = load_number<uint32_t>(block + 4), minima = load_number<uint32_t>(block + 8),
             nibbles = load_number<uint32_t>(block + 12);
  constexpr uint32_t kSix = 0x3f3f3f3f, kFour = 0x0f0f0f0f, kTwo = 0x30303030;
  const auto codes = [](uint32_t low, uint32_t high) {
    const auto both = static_cast<long long>(low | static_cast<uint64_t>(high) << 32);
    return _mm256_zextsi128_si256(_mm_cvtepu8_epi16(_mm_cvtsi64_si128(both)));
  };
  out.codes = codes(scales & kSix, (nibbles & kFour) | (scales >> 2 & kTwo));
  out.min_codes = codes(minima & kSix, (nibbles >> 4 & kFour) | (minima >> 2 & kTwo));
  out.factor = load_half(block);
  out.min_factor = load_half(block + 2);
}

// q2_k: 16 sub-blocks of 16 two-bit weights; 32 bytes hold 128 weights.
struct Q2_K {
  static constexpr Format kFormat = Format::kQ2_K;
  using Scales = IntegerScales;
  static constexpr int kSubBlock = 16;
  static constexpr int kZero = 0;
  static constexpr int kLargest = 3;
  static constexpr bool kMinima = true;

  template <bool kTail>
  LLAMA3_INLINE void load(const uint8_t* block, int, __m256i* q, IntegerScales& out) {
    const __m128i codes = load_16(block);
    out.codes = _mm256_cvtepu8_epi16(_mm_and_si128(codes, _mm_set1_epi8(15)));
    out.min_codes = _mm256_cvtepu8_epi16(_mm_and_si128(_mm_srli_epi16(codes, 4), _mm_set1_epi8(15)));
    out.factor = load_half(block + 80);
    out.min_factor = load_half(block + 82);
#pragma GCC unroll 8
    for (int k = 0; k < kParts; k++) {
      const __m256i bytes = load_32(block + 16 + 32 * (k / 4));
      q[k] = _mm256_and_si256(shift_bytes(bytes, k % 4 * 2), _mm256_set1_epi8(3));
    }
  }
};

// q3_k: like q2_k without minima, with a third bit of each weight in the first 32 bytes and 6-bit scales.
struct Q3_K {
  static constexpr Format kFormat = Format::kQ3_K;
  using Scales = IntegerScales;
  static constexpr int kSubBlock = 16;
  static constexpr int kZero = 4;
  static constexpr int kLargest = 4;
  static constexpr bool kMinima = false;

  template <bool kTail>
  LLAMA3_INLINE void load(const uint8_t* block, int, __m256i* q, IntegerScales& out) {
    // Each of the 16 scales is a nibble in 8 bytes and a bit pair in 4 bytes, minus 32.
    const __m128i packed = load_16(block + 94);  // scales in bytes 2 to 13
    const __m128i low = _mm_shuffle_epi8(packed, _mm_setr_epi8(2, 3, 4, 5, 6, 7, 8, 9, 2, 3, 4, 5, 6, 7, 8, 9));
    const __m128i high =
        _mm_shuffle_epi8(packed, _mm_setr_epi8(10, 11, 12, 13, 10, 11, 12, 13, 10, 11, 12, 13, 10, 11, 12, 13));
    const __m128i four = _mm_and_si128(_mm_srlv_epi64(low, _mm_set_epi64x(4, 0)), _mm_set1_epi8(15));
    const __m128i two = _mm_and_si128(_mm_srlv_epi32(high, _mm_setr_epi32(0, 2, 4, 6)), _mm_set1_epi8(3));
    const __m128i six = _mm_sub_epi8(_mm_or_si128(four, _mm_slli_epi16(two, 4)), _mm_set1_epi8(32));
    out.codes = _mm256_cvtepi8_epi16(six);
    out.factor = load_half(block + 108);
    const __m256i high_bits = load_32(block);
#pragma GCC unroll 8
    for (int k = 0; k < kParts; k++) {
      const __m256i bytes = load_32(block + 32 + 32 * (k / 4));
      const __m256i bits = _mm256_and_si256(shift_bytes(bytes, k % 4 * 2), _mm256_set1_epi8(3));
      q[k] = _mm256_or_si256(bits, _mm256_and_si256(shift_bytes(high_bits, k - 2), _mm256_set1_epi8(4)));
    }
  }
};

// q4_k: eight sub-blocks of 32 nibbles; 32 bytes hold two of them.
struct Q4_K {
  static constexpr Format kFormat = Format::kQ4_K;
  using Scales = IntegerScales;
  static constexpr int kSubBlock = 32;
  static constexpr int kZero = 0;
  static constexpr int kLargest = 15;
  static constexpr bool kMinima = true;

  template <bool kTail>
  LLAMA3_INLINE void load(const uint8_t* block, int, __m256i* q, IntegerScales& out) {
    load_k_scales(block, out);
#pragma GCC unroll 4
    for (int k = 0; k < 4; k++) {
      const __m256i bytes = load_32(block + 16 + 32 * k);
      q[2 * k] = low_nibbles(bytes);
      q[2 * k + 1] = high_nibbles(bytes);
    }
  }
};

// q5_k: like q4_k, with a fifth bit of each weight in 32 bytes before the nibbles; bit j belongs to sub-block j.
struct Q5_K {
  static constexpr Format kFormat = Format::kQ5_K;
  using Scales = IntegerScales;
  static constexpr int kSubBlock = 32;
  static constexpr int kZero = 0;
  static constexpr int kLargest = 31;
  static constexpr bool kMinima = true;

  template <bool kTail>
  LLAMA3_INLINE void load(const uint8_t* block, int, __m256i* q, IntegerScales& out) {
    load_k_scales(block, out);
    const __m256i high_bits = load_32(block + 16);
    const auto fifth = [&](int j) { return _mm256_and_si256(shift_bytes(high_bits, j - 4), _mm256_set1_epi8(16)); };
#pragma GCC unroll 4
    for (int k = 0; k < 4; k++) {
      const __m256i bytes = load_32(block + 48 + 32 * k);
      q[2 * k] = _mm256_or_si256(low_nibbles(bytes), fifth(2 * k));
      q[2 * k + 1] = _mm256_or_si256(high_nibbles(bytes), fifth(2 * k + 1));
    }
  }
};

// q6_k: 16 sub-blocks of 16 weights; each half of the block has 64 bytes of nibbles and 32 bytes of bit pairs.
struct Q6_K {
  static constexpr Format kFormat = Format::kQ6_K;
  using Scales = IntegerScales;
  static constexpr int kSubBlock = 16;
  static constexpr int kZero = 32;
  static constexpr int kLargest = 32;
  static constexpr bool kMinima = false;

  template <bool kTail>
  LLAMA3_INLINE void load(const uint8_t* block, int, __m256i* q, IntegerScales& out) {
    out.codes = _mm256_cvtepi8_epi16(load_16(block + 192));
    out.factor = load_half(block + 208);
#pragma GCC unroll 8
    for (int k = 0; k < kParts; k++) {
      const __m256i low = load_32(block + k / 4 * 64 + k % 2 * 32), high = load_32(block + 128 + k / 4 * 32);
      const __m256i pairs = _mm256_and_si256(shift_bytes(high, k % 4 * 2 - 4), _mm256_set1_epi8(48));
      q[k] = _mm256_or_si256(low_nibbles(shift_bytes(low, k % 4 / 2 * 4)), pairs);
    }
  }
};

}  // namespace

template <>
FormatKernels kernels_for<Format::kQ2_K>(bool vnni) {
  return kernels_of<Q2_K>(vnni);
}

template <>
FormatKernels kernels_for<Format::kQ3_K>(bool vnni) {
  return kernels_of<Q3_K>(vnni);
}

template <>
FormatKernels kernels_for<Format::kQ4_K>(bool vnni) {
  return kernels_of<Q4_K>(vnni);
}

template <>
FormatKernels kernels_for<Format::kQ5_K>(bool vnni) {
  return kernels_of<Q5_K>(vnni);
}

template <>
FormatKernels kernels_for<Format::kQ6_K>(bool vnni) {
  return kernels_of<Q6_K>(vnni);
}

}  // namespace llama3::avx2
