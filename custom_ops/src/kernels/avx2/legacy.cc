// q4_0, q4_1, q5_0, q5_1, q8_0 and iq4_nl: blocks of 32 weights with a float16 scale and, in the _1 formats, a float16
// that is added to each weight.
#include "kernels/avx2/blocks_of_32.h"
#include "kernels/avx2/format_kernels.h"
#include "kernels/codebooks.h"

namespace llama3::avx2 {
namespace {

// q4_0: a float16 scale, 16 bytes of nibbles. A weight is its nibble minus 8, scaled.
struct Q4_0 {
  static constexpr Format kFormat = Format::kQ4_0;
  using Scales = FloatScales;
  static constexpr int kSubBlock = 32;
  static constexpr int kZero = 8;
  static constexpr int kLargest = 8;
  static constexpr bool kMinima = false;

  template <bool kTail>
  LLAMA3_INLINE void load(const uint8_t* blocks, int count, __m256i* q, FloatScales& out) {
    load_scales<Q4_0, kTail>(blocks, count, out);
    load_nibbles<Q4_0, kTail>(blocks, 2, count, q);
  }
};

// q4_1: a float16 scale, a float16 to add, 16 bytes of nibbles.
struct Q4_1 {
  static constexpr Format kFormat = Format::kQ4_1;
  using Scales = FloatScales;
  static constexpr int kSubBlock = 32;
  static constexpr int kZero = 0;
  static constexpr int kLargest = 15;
  static constexpr bool kMinima = true;

  template <bool kTail>
  LLAMA3_INLINE void load(const uint8_t* blocks, int count, __m256i* q, FloatScales& out) {
    load_scales_and_minima<Q4_1, kTail>(blocks, count, out);
    load_nibbles<Q4_1, kTail>(blocks, 4, count, q);
  }
};

// q5_0: a float16 scale, 32 fifth bits, 16 bytes of nibbles. A weight is its five bits minus 16, scaled.
struct Q5_0 {
  static constexpr Format kFormat = Format::kQ5_0;
  using Scales = FloatScales;
  static constexpr int kSubBlock = 32;
  static constexpr int kZero = 16;
  static constexpr int kLargest = 16;
  static constexpr bool kMinima = false;

  template <bool kTail>
  LLAMA3_INLINE void load(const uint8_t* blocks, int count, __m256i* q, FloatScales& out) {
    load_scales<Q5_0, kTail>(blocks, count, out);
    load_nibbles<Q5_0, kTail>(blocks, 6, count, q);
    add_fifth_bits<Q5_0, kTail>(blocks + 2, count, q);
  }
};

// q5_1: a float16 scale, a float16 to add, 32 fifth bits, 16 bytes of nibbles.
struct Q5_1 {
  static constexpr Format kFormat = Format::kQ5_1;
  using Scales = FloatScales;
  static constexpr int kSubBlock = 32;
  static constexpr int kZero = 0;
  static constexpr int kLargest = 31;
  static constexpr bool kMinima = true;

  template <bool kTail>
  LLAMA3_INLINE void load(const uint8_t* blocks, int count, __m256i* q, FloatScales& out) {
    load_scales_and_minima<Q5_1, kTail>(blocks, count, out);
    load_nibbles<Q5_1, kTail>(blocks, 8, count, q);
    add_fifth_bits<Q5_1, kTail>(blocks + 4, count, q);
  }
};

// q8_0: a float16 scale and 32 int8.
struct Q8_0 {
  static constexpr Format kFormat = Format::kQ8_0;
  using Scales = FloatScales;
  static constexpr int kSubBlock = 32;
  static constexpr int kZero = 0;
  static constexpr bool kMinima = false;

  template <bool kTail>
  LLAMA3_INLINE void load(const uint8_t* blocks, int count, __m256i* q, FloatScales& out) {
    load_scales<Q8_0, kTail>(blocks, count, out);
#pragma GCC unroll 8
    for (int i = 0; i < kParts; i++)
      q[i] = kTail && 32 * i >= count ? _mm256_setzero_si256() : load_32(blocks + kBlockBytes<Q8_0> * i + 2);
  }
};

// iq4_nl: a float16 scale, 16 bytes of nibbles that index a codebook.
struct IQ4_NL {
  static constexpr Format kFormat = Format::kIQ4_NL;
  using Scales = FloatScales;
  static constexpr int kSubBlock = 32;
  static constexpr int kZero = 0;
  static constexpr bool kMinima = false;

  template <bool kTail>
  LLAMA3_INLINE void load(const uint8_t* blocks, int count, __m256i* q, FloatScales& out) {
    load_scales<IQ4_NL, kTail>(blocks, count, out);
    const __m256i codebook = shifted_codebook(kCodebookIQ4, kZero);
#pragma GCC unroll 8
    for (int i = 0; i < kParts; i++)
      q[i] = kTail && 32 * i >= count
                 ? _mm256_setzero_si256()
                 : _mm256_shuffle_epi8(codebook, both_nibbles(blocks + kBlockBytes<IQ4_NL> * i + 2));
  }
};

}  // namespace

template <>
FormatKernels kernels_for<Format::kQ4_0>(bool vnni) {
  return kernels_of<Q4_0>(vnni);
}

template <>
FormatKernels kernels_for<Format::kQ4_1>(bool vnni) {
  return kernels_of<Q4_1>(vnni);
}

template <>
FormatKernels kernels_for<Format::kQ5_0>(bool vnni) {
  return kernels_of<Q5_0>(vnni);
}

template <>
FormatKernels kernels_for<Format::kQ5_1>(bool vnni) {
  return kernels_of<Q5_1>(vnni);
}

template <>
FormatKernels kernels_for<Format::kQ8_0>(bool vnni) {
  return kernels_of<Q8_0>(vnni);
}

template <>
FormatKernels kernels_for<Format::kIQ4_NL>(bool vnni) {
  return kernels_of<IQ4_NL>(vnni);
}

}  // namespace llama3::avx2
