// Products in plain C++, with sums in double precision. Every other instruction set is tested against them, and they
// run if none of them is supported.
#include <algorithm>

#include "kernels/activations.h"
#include "kernels/matmul_kernels.h"
#include "kernels/scalar/unpack.h"
#include "kernels/work.h"

namespace llama3::scalar {
namespace {

constexpr int64_t kRowsPerItem = 16;

bool uses_integers(Format format, Activations activations) {
  return activations == Activations::kInt8 && !is_float(format);
}

// The two quantizations of A, [M, super_blocks(K)] each. One that no product needs is not allocated.
struct QuantizedRows {
  ActivationBlock* per_256;
  ActivationBlock* per_32;
};

struct Needs {
  bool per_256 = false, per_32 = false;
  Needs(std::span<const Product> products, Activations activations) {
    for (const Product& product : products)
      if (uses_integers(product.weight.format, activations))
        (scale_per_32(product.weight.format) ? per_32 : per_256) = true;
  }
};

size_t blocks_of(std::span<const Product> products, int64_t M) {
  return static_cast<size_t>(M * super_blocks(products.front().weight.cols));
}

size_t scratch_bytes(std::span<const Product> products, int64_t M, Activations activations, size_t width) {
  const Needs needs(products, activations);
  const size_t blocks = blocks_of(products, M) * sizeof(ActivationBlock);
  const size_t sums = width * static_cast<size_t>(M) * sizeof(double);
  return blocks * needs.per_256 + blocks * needs.per_32 + sums;
}

double dot_block(const Unpacked& weights, const ActivationBlock& a) {
  double sum = 0;
  for (int j = 0; j < 16; j++) {
    int32_t dot = 0;
    for (int i = 0; i < 16; i++) dot += weights.q[16 * j + i] * a.q[16 * j + i];
    sum += static_cast<double>(weights.scale[j] * a.scale[j / 2]) * dot - weights.min[j] * a.sums_16[j];
  }
  return sum;
}

// Add the products of one weight row and every row of A to `sums`, from integers.
void multiply_row(const Matrix& weight, int64_t n, const ActivationBlock* A, int64_t M, double* sums) {
  const FormatInfo& layout = info(weight.format);
  const int64_t blocks = super_blocks(weight.cols);
  const int64_t super_bytes = int64_t{kSuperBlock} / layout.block_weights * layout.block_bytes;
  const uint8_t* row = weight.data + static_cast<size_t>(n) * weight.row_bytes();
  for (int64_t block = 0; block < blocks; block++) {
    Unpacked unpacked;
    const int64_t count = std::min<int64_t>(kSuperBlock, weight.cols - block * kSuperBlock);
    unpack_super_block(weight.format, row + block * super_bytes, static_cast<int>(count), unpacked);
    for (int64_t m = 0; m < M; m++) sums[m] += dot_block(unpacked, A[m * blocks + block]);
  }
}

// Do the same from dequantized weights, a piece of the row at a time (1024 is a multiple of every block size).
void multiply_row(const Matrix& weight, int64_t n, const float* A, int64_t M, double* sums) {
  constexpr int64_t kPiece = 1024;
  float piece[kPiece];
  const FormatInfo& layout = info(weight.format);
  const uint8_t* row = weight.data + static_cast<size_t>(n) * weight.row_bytes();
  for (int64_t begin = 0; begin < weight.cols; begin += kPiece) {
    const int64_t count = std::min(kPiece, weight.cols - begin);
    dequantize(weight.format, row + begin / layout.block_weights * layout.block_bytes, count, piece);
    for (int64_t m = 0; m < M; m++)
      for (int64_t k = 0; k < count; k++) sums[m] += static_cast<double>(piece[k]) * A[m * weight.cols + begin + k];
  }
}

void multiply(std::span<const Product> products, const float* A, int64_t M, Activations activations, Parallel& parallel,
              std::byte* scratch) {
  const Needs needs(products, activations);
  const int64_t K = products.front().weight.cols, blocks = super_blocks(K);
  QuantizedRows quantized;
  quantized.per_256 = reinterpret_cast<ActivationBlock*>(scratch);
  quantized.per_32 = quantized.per_256 + (needs.per_256 ? blocks_of(products, M) : 0);
  auto* sums = reinterpret_cast<double*>(quantized.per_32 + (needs.per_32 ? blocks_of(products, M) : 0));

  if (needs.per_256 || needs.per_32)
    for_each_item(parallel, static_cast<size_t>(M), [&](size_t, size_t m) {
      for (int64_t block = 0; block < blocks; block++) {
        const float* values = A + static_cast<int64_t>(m) * K + block * kSuperBlock;
        const int count = static_cast<int>(std::min<int64_t>(kSuperBlock, K - block * kSuperBlock));
        const int64_t index = static_cast<int64_t>(m) * blocks + block;
        if (needs.per_256) quantize_activations(values, count, false, quantized.per_256[index]);
        if (needs.per_32) quantize_activations(values, count, true, quantized.per_32[index]);
      }
    });

  for (const Product& product : products) {
    const Matrix& weight = product.weight;
    const int64_t items = (weight.rows + kRowsPerItem - 1) / kRowsPerItem;
    for_each_item(parallel, static_cast<size_t>(items), [&](size_t slot, size_t item) {
      double* row_sums = sums + slot * static_cast<size_t>(M);
      const int64_t begin = static_cast<int64_t>(item) * kRowsPerItem;
      for (int64_t n = begin; n < std::min(begin + kRowsPerItem, weight.rows); n++) {
        std::fill_n(row_sums, M, product.bias ? product.bias[n] : 0.0);
        if (uses_integers(weight.format, activations))
          multiply_row(weight, n, scale_per_32(weight.format) ? quantized.per_32 : quantized.per_256, M, row_sums);
        else
          multiply_row(weight, n, A, M, row_sums);
        for (int64_t m = 0; m < M; m++) product.output[m * weight.rows + n] = static_cast<float>(row_sums[m]);
      }
    });
  }
}

}  // namespace

const MatmulKernels kMatmul = {scratch_bytes, multiply, dequantize};

}  // namespace llama3::scalar
