// The matmul kernels of any instruction set as plain C functions, for tests (ctypes). Weights, activations and outputs
// end right before an unmapped page, so a read or write past an end crashes.
#include <cstdint>
#include <cstring>
#include <vector>

#include "guarded_memory.h"
#include "matmul_kernels_by_name.h"
#include "spinning_pool.h"

using namespace llama3;

#define EXPORT extern "C" __attribute__((visibility("default")))

EXPORT int has_instruction_set(const char* name) { return matmul_kernels_by_name(name) != nullptr; }

// Multiply A [M, K] by `count` weights [rows[i], K]. Return 0, or 1 for an unknown name.
EXPORT int multiply(const char* instruction_set, int float32, int64_t threads, int64_t K, int64_t M, const float* A,
                    int count, const char* const* formats, const int64_t* rows, const uint8_t* const* weights,
                    const float* const* biases, float* const* outputs) {
  const MatmulKernels* kernels = matmul_kernels_by_name(instruction_set);
  if (!kernels) return 1;
  const GuardedMemory a(A, static_cast<size_t>(M * K) * sizeof(float));
  std::vector<GuardedMemory> copies, results;
  std::vector<Product> products;
  for (int i = 0; i < count; i++) {
    const FormatInfo* format = find_format(formats[i]);
    if (!format) return 1;
    const Matrix matrix = {weights[i], format->format, rows[i], K};
    copies.emplace_back(weights[i], matrix.row_bytes() * static_cast<size_t>(rows[i]));
    results.emplace_back(static_cast<size_t>(M * rows[i]) * sizeof(float));
    products.push_back({{copies.back().data(), format->format, rows[i], K},
                        biases[i],
                        reinterpret_cast<float*>(results.back().data())});
  }
  const Activations activations = float32 ? Activations::kFloat32 : Activations::kInt8;
  SpinningPool pool(static_cast<size_t>(threads));
  const size_t bytes = kernels->scratch_bytes(products, M, activations, pool.width());
  const size_t aligned = (bytes + 63) / 64 * 64;
  const GuardedMemory scratch(aligned);
  std::memset(scratch.data(), 0xff, aligned);
  kernels->multiply(products, reinterpret_cast<const float*>(a.data()), M, activations, pool,
                    reinterpret_cast<std::byte*>(scratch.data()));
  for (int i = 0; i < count; i++)
    std::memcpy(outputs[i], results[static_cast<size_t>(i)].data(), static_cast<size_t>(M * rows[i]) * sizeof(float));
  return 0;
}

// Dequantize one row. Return 0, or 1 for an unknown name.
EXPORT int dequantize(const char* instruction_set, const char* format, int64_t count, const uint8_t* row, float* out) {
  const MatmulKernels* kernels = matmul_kernels_by_name(instruction_set);
  const FormatInfo* layout = find_format(format);
  if (!kernels || !layout) return 1;
  const Matrix matrix = {row, layout->format, 1, count};
  const GuardedMemory copy(row, matrix.row_bytes());
  const GuardedMemory result(static_cast<size_t>(count) * sizeof(float));
  kernels->dequantize(layout->format, copy.data(), count, reinterpret_cast<float*>(result.data()));
  std::memcpy(out, result.data(), static_cast<size_t>(count) * sizeof(float));
  return 0;
}
