// q4_k: eight sub-blocks of 32 nibbles; 32 bytes hold two of them.
#include "kernels/avx512/format_kernels.h"
#include "kernels/avx512/k_scales.h"

namespace llama3::avx512 {
namespace {

struct Q4_K {
  static constexpr Format kFormat = Format::kQ4_K;
  static constexpr int kSubBlock = 32;
  static constexpr int kZero = 0;
  static constexpr Minima kMinima = Minima::kInteger;

  template <bool kTail>
  static inline __attribute__((always_inline)) void load(const uint8_t* block, int, SuperBlock& out) {
    load_k_scales(block, out);
#pragma GCC unroll 4
    for (int k = 0; k < 4; k++) out.q[k] = nibbles(same_halves(block + 16 + 32 * k), shifts_by_half(0, 4));
  }
};

}  // namespace

FormatKernels q4_k_kernels() { return kernels_of<Q4_K>(); }

}  // namespace llama3::avx512
