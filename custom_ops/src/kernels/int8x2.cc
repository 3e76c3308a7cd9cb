#include "kernels/int8x2.h"

#include <algorithm>
#include <cmath>

#include "kernels/activations.h"

namespace llama3::int8x2 {
namespace {

constexpr size_t kAlignment = 64;

size_t aligned(size_t bytes) { return (bytes + kAlignment - 1) / kAlignment * kAlignment; }

// Round to the nearest integer, ties to even, for magnitudes below 2^22. Unlike std::nearbyint, this is not a call.
float round(float value) { return (value + 0x1.8p23f) - 0x1.8p23f; }

// Split `values` into what the int8 kernels will round them to, exactly, and the rest.
void split(const float* values, int64_t count, float* rounded, float* rest) {
  float largest = 0;
  for (int64_t i = 0; i < count; i++) largest = std::max(largest, std::fabs(values[i]));
  // As in quantize_activations, smaller groups become zero. A NaN is handled there.
  const float to_integers = largest >= 0x1p-120f ? 127 / largest : 0, scale = largest / 127;
  for (int64_t i = 0; i < count; i++) {
    rounded[i] = round(values[i] * to_integers) * scale;
    rest[i] = values[i] - rounded[i];
  }
}

// Write the rounded rows of A, then their rests, as one float32 matrix [2 M, K].
void split_rows(const float* A, int64_t M, int64_t K, int64_t group, float* rows) {
  for (int64_t begin = 0; begin < M * K; begin += K) {
    for (int64_t k = begin; k < begin + K; k += group)
      split(A + k, std::min(group, begin + K - k), rows + k, rows + M * K + k);
  }
}

}  // namespace

size_t scratch_bytes(const MatmulKernels& kernels, std::span<const Product> products, int64_t M, size_t width) {
  size_t most = 0;
  for (const Product& product : products) {
    const bool exact = is_float(product.weight.format);
    const int64_t rows = exact ? M : 2 * M;
    const size_t own =
        exact ? 0 : static_cast<size_t>(rows) * static_cast<size_t>(product.weight.cols + product.weight.rows);
    most = std::max(
        most, aligned(own * sizeof(float)) + kernels.scratch_bytes({&product, 1}, rows, Activations::kInt8, width));
  }
  return most;
}

void multiply(const MatmulKernels& kernels, std::span<const Product> products, const float* A, int64_t M,
              Parallel& parallel, std::byte* scratch) {
  // One product at a time: formats differ in how many activations share a scale.
  for (const Product& product : products) {
    const Matrix& weight = product.weight;
    if (is_float(weight.format)) {
      kernels.multiply({&product, 1}, A, M, Activations::kInt8, parallel, scratch);
      continue;
    }
    const int64_t K = weight.cols, N = weight.rows;
    auto* rows = reinterpret_cast<float*>(scratch);
    float* sums = rows + 2 * M * K;  // [2 M, N]
    const size_t own = aligned(static_cast<size_t>(2 * M * (K + N)) * sizeof(float));
    split_rows(A, M, K, scale_per_32(weight.format) ? 32 : kSuperBlock, rows);
    const Product both = {weight, nullptr, sums};
    kernels.multiply({&both, 1}, rows, 2 * M, Activations::kInt8, parallel, scratch + own);
    for (int64_t m = 0; m < M; m++) {
      const float *of_rounded = sums + m * N, *of_rest = sums + (M + m) * N;
      float* output = product.output + m * N;
      for (int64_t n = 0; n < N; n++) output[n] = of_rounded[n] + of_rest[n] + (product.bias ? product.bias[n] : 0);
    }
  }
}

}  // namespace llama3::int8x2
