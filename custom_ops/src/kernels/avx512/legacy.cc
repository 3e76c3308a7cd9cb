// q4_0, q4_1, q5_0, q5_1, q8_0 and iq4_nl: blocks of 32 weights with a float16 scale and, in the _1 formats, a float16
// that is added to each weight.
#include "kernels/avx512/blocks_of_32.h"
#include "kernels/avx512/format_kernels.h"
#include "kernels/codebooks.h"

namespace llama3::avx512 {
namespace {

// q4_0: a float16 scale, 16 bytes of nibbles. A weight is its nibble minus 8, scaled.
struct Q4_0 {
  static constexpr Format kFormat = Format::kQ4_0;
  static constexpr int kSubBlock = 32;
  static constexpr int kZero = 8;
  static constexpr Minima kMinima = Minima::kNone;

  template <bool kTail>
  LLAMA3_INLINE void load(const uint8_t* blocks, int count, SuperBlock& out) {
    out.scale = head_halves<Q4_0, kTail>(blocks, count);
    load_nibbles<Q4_0, kTail>(blocks, 2, count, out.q);
  }
};

// q4_1: a float16 scale, a float16 to add, 16 bytes of nibbles.
struct Q4_1 {
  static constexpr Format kFormat = Format::kQ4_1;
  static constexpr int kSubBlock = 32;
  static constexpr int kZero = 0;
  static constexpr Minima kMinima = Minima::kFloat;

  template <bool kTail>
  LLAMA3_INLINE void load(const uint8_t* blocks, int count, SuperBlock& out) {
    out.scale = head_halves<Q4_1, kTail>(blocks, count);
    out.min = negated_upper_half(out.scale);
    load_nibbles<Q4_1, kTail>(blocks, 4, count, out.q);
  }
};

// q5_0: a float16 scale, 32 fifth bits, 16 bytes of nibbles. A weight is its five bits minus 16, scaled.
struct Q5_0 {
  static constexpr Format kFormat = Format::kQ5_0;
  static constexpr int kSubBlock = 32;
  static constexpr int kZero = 16;
  static constexpr Minima kMinima = Minima::kNone;

  template <bool kTail>
  LLAMA3_INLINE void load(const uint8_t* blocks, int count, SuperBlock& out) {
    out.scale = head_halves<Q5_0, kTail>(blocks, count);
    load_nibbles<Q5_0, kTail>(blocks, 6, count, out.q);
    add_fifth_bits<Q5_0, kTail>(blocks + 2, count, out.q);
  }
};

// q5_1: a float16 scale, a float16 to add, 32 fifth bits, 16 bytes of nibbles.
struct Q5_1 {
  static constexpr Format kFormat = Format::kQ5_1;
  static constexpr int kSubBlock = 32;
  static constexpr int kZero = 0;
  static constexpr Minima kMinima = Minima::kFloat;

  template <bool kTail>
  LLAMA3_INLINE void load(const uint8_t* blocks, int count, SuperBlock& out) {
    out.scale = head_halves<Q5_1, kTail>(blocks, count);
    out.min = negated_upper_half(out.scale);
    load_nibbles<Q5_1, kTail>(blocks, 8, count, out.q);
    add_fifth_bits<Q5_1, kTail>(blocks + 4, count, out.q);
  }
};

// q8_0: a float16 scale and 32 int8.
struct Q8_0 {
  static constexpr Format kFormat = Format::kQ8_0;
  static constexpr int kSubBlock = 32;
  static constexpr int kZero = 128;
  static constexpr Minima kMinima = Minima::kNone;

  template <bool kTail>
  LLAMA3_INLINE void load(const uint8_t* blocks, int count, SuperBlock& out) {
    out.scale = head_halves<Q8_0, kTail>(blocks, count);
    const auto block = [&](int i) { return block_at<Q8_0, kTail>(blocks, count, i) + 2; };
#pragma GCC unroll 2
    for (int k = 0; k < 4; k += 2)
      to_even_and_odd(two_halves(block(2 * k), block(2 * k + 1)), two_halves(block(2 * k + 2), block(2 * k + 3)),
                      out.q[k], out.q[k + 1]);
#pragma GCC unroll 4
    for (__m512i& q : out.q) q = _mm512_xor_si512(q, _mm512_set1_epi8(-128));
  }
};

// iq4_nl: a float16 scale, 16 bytes of nibbles that index a codebook.
struct IQ4_NL {
  static constexpr Format kFormat = Format::kIQ4_NL;
  static constexpr int kSubBlock = 32;
  static constexpr int kZero = 128;
  static constexpr Minima kMinima = Minima::kNone;

  template <bool kTail>
  LLAMA3_INLINE void load(const uint8_t* blocks, int count, SuperBlock& out) {
    out.scale = head_halves<IQ4_NL, kTail>(blocks, count);
    const __m512i codebook = shifted_codebook(kCodebookIQ4);
    load_nibbles<IQ4_NL, kTail>(blocks, 2, count, out.q);
#pragma GCC unroll 4
    for (__m512i& q : out.q) q = _mm512_shuffle_epi8(codebook, q);
  }
};

}  // namespace

template <>
FormatKernels kernels_for<Format::kQ4_0>() {
  return kernels_of<Q4_0>();
}

template <>
FormatKernels kernels_for<Format::kQ4_1>() {
  return kernels_of<Q4_1>();
}

template <>
FormatKernels kernels_for<Format::kQ5_0>() {
  return kernels_of<Q5_0>();
}

template <>
FormatKernels kernels_for<Format::kQ5_1>() {
  return kernels_of<Q5_1>();
}

template <>
FormatKernels kernels_for<Format::kQ8_0>() {
  return kernels_of<Q8_0>();
}

template <>
FormatKernels kernels_for<Format::kIQ4_NL>() {
  return kernels_of<IQ4_NL>();
}

}  // namespace llama3::avx512
