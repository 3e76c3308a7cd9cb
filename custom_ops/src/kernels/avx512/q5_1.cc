// q5_1: a float16 scale, a float16 that is added, 32 fifth bits, 16 bytes of nibbles.
#include "kernels/avx512/blocks_of_32.h"
#include "kernels/avx512/format_kernels.h"

namespace llama3::avx512 {
namespace {

struct Q5_1 {
  static constexpr Format kFormat = Format::kQ5_1;
  static constexpr int kSubBlock = 32;
  static constexpr int kZero = 0;
  static constexpr Minima kMinima = Minima::kFloat;

  template <bool kTail>
  static inline __attribute__((always_inline)) void load(const uint8_t* blocks, int count, SuperBlock& out) {
    out.scale = head_halves<24, kTail>(blocks, count);
    out.min = negated_upper_half(out.scale);
    load_nibbles<24, kTail>(blocks, 8, count, out.q);
    add_fifth_bits<24, kTail>(blocks + 4, count, out.q);
  }
};

}  // namespace

template <>
inline constexpr bool kPer32<Q5_1> = true;

FormatKernels q5_1_kernels() { return kernels_of<Q5_1>(); }

}  // namespace llama3::avx512
