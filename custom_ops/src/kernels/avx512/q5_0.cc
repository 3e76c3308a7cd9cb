// q5_0: a float16 scale, 32 fifth bits, 16 bytes of nibbles; the five bits mean themselves less 16.
#include "kernels/avx512/blocks_of_32.h"
#include "kernels/avx512/format_kernels.h"

namespace llama3::avx512 {
namespace {

struct Q5_0 {
  static constexpr Format kFormat = Format::kQ5_0;
  static constexpr int kSubBlock = 32;
  static constexpr int kZero = 16;
  static constexpr Minima kMinima = Minima::kNone;

  template <bool kTail>
  static inline __attribute__((always_inline)) void load(const uint8_t* blocks, int count, SuperBlock& out) {
    out.scale = head_halves<22, kTail>(blocks, count);
    load_nibbles<22, kTail>(blocks, 6, count, out.q);
    add_fifth_bits<22, kTail>(blocks + 2, count, out.q);
  }
};

}  // namespace

template <>
inline constexpr bool kPer32<Q5_0> = true;

FormatKernels q5_0_kernels() { return kernels_of<Q5_0>(); }

}  // namespace llama3::avx512
