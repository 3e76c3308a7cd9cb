// q4_0: a float16 scale, 16 bytes of nibbles, which mean themselves less 8.
#include "kernels/avx512/blocks_of_32.h"
#include "kernels/avx512/format_kernels.h"

namespace llama3::avx512 {
namespace {

struct Q4_0 {
  static constexpr Format kFormat = Format::kQ4_0;
  static constexpr int kSubBlock = 32;
  static constexpr int kZero = 8;
  static constexpr Minima kMinima = Minima::kNone;

  template <bool kTail>
  static inline __attribute__((always_inline)) void load(const uint8_t* blocks, int count, SuperBlock& out) {
    out.scale = head_halves<18, kTail>(blocks, count);
    load_nibbles<18, kTail>(blocks, 2, count, out.q);
  }
};

}  // namespace

template <>
inline constexpr bool kPer32<Q4_0> = true;

FormatKernels q4_0_kernels() { return kernels_of<Q4_0>(); }

}  // namespace llama3::avx512
