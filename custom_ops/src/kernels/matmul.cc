#include "kernels/matmul.h"

#include <algorithm>

#include "kernels/cpu.h"
#include "kernels/int8x2.h"
#include "kernels/matmul_kernels.h"
#include "kernels/work.h"

namespace llama3 {
namespace {

const MatmulKernels& kernels() {
#if defined(__x86_64__)
  if (instruction_set() == InstructionSet::kAVX512) return avx512::kMatmul;
  if (instruction_set() == InstructionSet::kAVX2_VNNI) return avx2_vnni::kMatmul;
  if (instruction_set() == InstructionSet::kAVX2) return avx2::kMatmul;
#elif defined(__aarch64__)
  if (instruction_set() == InstructionSet::kNEON) return neon::kMatmul;
#endif
  return scalar::kMatmul;
}

}  // namespace

size_t matmul_scratch_bytes(std::span<const Product> products, int64_t M, Activations activations, size_t width) {
  if (activations == Activations::kInt8x2) return int8x2::scratch_bytes(kernels(), products, M, width);
  return kernels().scratch_bytes(products, M, activations, width);
}

void matmul(std::span<const Product> products, const float* A, int64_t M, Activations activations, Parallel& parallel,
            std::byte* scratch) {
  if (activations == Activations::kInt8x2) return int8x2::multiply(kernels(), products, A, M, parallel, scratch);
  kernels().multiply(products, A, M, activations, parallel, scratch);
}

void dequantize_rows(const Matrix& matrix, const int64_t* row_ids, int64_t count, float* output, Parallel& parallel) {
  constexpr int64_t kWeightsPerItem = 1 << 14;  // about 10 us: a single token's row is not worth waking a thread for
  const int64_t rows_per_item = std::max<int64_t>(1, kWeightsPerItem / matrix.cols);
  const int64_t items = (count + rows_per_item - 1) / rows_per_item;
  for_each_item(parallel, static_cast<size_t>(items), [&](size_t, size_t item) {
    const int64_t begin = static_cast<int64_t>(item) * rows_per_item, end = std::min(begin + rows_per_item, count);
    for (int64_t i = begin; i < end; i++) {
      const uint8_t* row = matrix.data + static_cast<size_t>(row_ids[i]) * matrix.row_bytes();
      kernels().dequantize(matrix.format, row, matrix.cols, output + i * matrix.cols);
    }
  });
}

}  // namespace llama3
