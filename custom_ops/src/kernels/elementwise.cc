#include "kernels/elementwise.h"

#include <algorithm>

#include "kernels/cpu.h"
#include "kernels/elementwise_kernels.h"
#include "kernels/work.h"

namespace llama3 {
namespace {

constexpr int64_t kValuesPerItem = 1 << 14;  // about 10 us: a single token is not worth waking a thread for

const ElementwiseKernels& kernels() {
#if defined(__x86_64__)
  if (instruction_set() == InstructionSet::kAVX512) return avx512::kElementwise;
  if (instruction_set() >= InstructionSet::kAVX2) return avx2::kElementwise;
#endif
  return scalar::kElementwise;  // on 64-bit Arm the compiler vectorizes it with NEON
}

// Call work(begin, end) for ranges of `step` from 0 to `count`.
template <class Work>
void for_each_range(int64_t count, int64_t step, Parallel& parallel, Work&& work) {
  for_each_item(parallel, static_cast<size_t>((count + step - 1) / step), [&](size_t, size_t item) {
    const int64_t begin = static_cast<int64_t>(item) * step;
    work(begin, std::min(begin + step, count));
  });
}

}  // namespace

void swiglu(const float* gate, const float* up, int64_t count, float* y, Parallel& parallel) {
  for_each_range(count, kValuesPerItem, parallel, [&](int64_t begin, int64_t end) {
    kernels().swiglu(gate + begin, up + begin, end - begin, y + begin);
  });
}

void add_rms_norm(const AddRMSNormCall& call, Parallel& parallel) {
  const int64_t rows_per_item = std::max<int64_t>(1, kValuesPerItem / std::max<int64_t>(1, call.cols));
  for_each_range(call.rows, rows_per_item, parallel, [&](int64_t begin, int64_t end) {
    for (int64_t row = begin; row < end; row++) kernels().add_rms_norm_row(call, row);
  });
}

}  // namespace llama3
