// Compare random calls of every matmul kernel with the scalar one, on buffers of exactly the required size. This
// program is for sanitizers (address, undefined, thread) and emulators. Arguments: the number of calls and a seed.
#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <limits>
#include <random>
#include <string>
#include <vector>

#include "guarded_memory.h"
#include "kernels/int8x2.h"
#include "matmul_kernels_by_name.h"
#include "spinning_pool.h"

using namespace llama3;

namespace {

using Random = std::mt19937;

int64_t between(int64_t low, int64_t high, Random& random) {
  return std::uniform_int_distribution<int64_t>(low, high)(random);
}

// Return the offsets of a block's float16 scale and minimum: those where a NaN makes all of its weights NaN.
std::vector<size_t> half_offsets(Format format) {
  std::vector<size_t> offsets;
  if (is_float(format)) return offsets;
  const FormatInfo& layout = info(format);
  const auto block_bytes = static_cast<size_t>(layout.block_bytes);
  for (size_t offset = 0; offset + 2 <= block_bytes; offset++) {
    std::vector<uint8_t> block(block_bytes);
    block[offset + 1] = 0x7e;
    std::vector<float> weights(static_cast<size_t>(layout.block_weights));
    scalar::kMatmul.dequantize(format, block.data(), layout.block_weights, weights.data());
    if (std::all_of(weights.begin(), weights.end(), [](float w) { return std::isnan(w); })) offsets.push_back(offset);
  }
  return offsets;
}

// Return weights of random bits with scales of about 0.01. With `odd_half`, one block in three has that as its scale.
std::vector<uint8_t> random_weights(Format format, int64_t rows, int64_t cols, const uint16_t* odd_half,
                                    Random& random) {
  const FormatInfo& layout = info(format);
  const std::vector<size_t> halves = half_offsets(format);
  std::vector<uint8_t> bytes(static_cast<size_t>(rows * cols / layout.block_weights * layout.block_bytes));
  const auto set_half = [&](size_t at, uint16_t half) { std::memcpy(&bytes[at], &half, sizeof half); };
  const auto block_bytes = static_cast<size_t>(layout.block_bytes);
  for (size_t block = 0; block < bytes.size(); block += block_bytes) {
    for (size_t i = 0; i < block_bytes; i++) bytes[block + i] = static_cast<uint8_t>(random());
    const auto scale = static_cast<uint16_t>((random() & 0x8000) | (0x2000 + random() % 0x400));  // 0.0078 to 0.0156
    if (format == Format::kF32) {
      const float value = static_cast<float>(static_cast<int>(random() % 2001) - 1000) / 20000;
      std::memcpy(&bytes[block], &value, sizeof value);
    } else if (format == Format::kF16) {
      set_half(block, scale);
    } else if (format == Format::kBF16) {
      set_half(block, static_cast<uint16_t>((random() & 0x8000) | (0x3c00 + random() % 0x100)));
    } else if (format == Format::kMXFP4) {
      bytes[block] = static_cast<uint8_t>(115 + random() % 7);
    } else if (format == Format::kNVFP4) {
      for (size_t i = 0; i < 4; i++) bytes[block + i] = static_cast<uint8_t>(random() % 60);
    } else if (format == Format::kIQ1_M) {  // in the top nibbles of four words
      for (size_t i = 0; i < 4; i++) {
        uint8_t& top = bytes[block + 49 + 2 * i];
        top = static_cast<uint8_t>((top & 15) | (scale >> (4 * i) & 15) << 4);
      }
    }
    const uint16_t half = odd_half && random() % 3 == 0 ? *odd_half : scale;
    for (size_t offset : halves) set_half(block + offset, half);
  }
  return bytes;
}

struct Weight {
  Format format;
  int64_t rows;
  std::vector<uint8_t> bytes;
  std::vector<float> bias;  // or empty
};

struct Call {
  int64_t M, K;
  Activations activations;
  bool odd;  // scales or activations may not be finite: only compare which results are finite
  std::vector<float> A;
  std::vector<Weight> weights;

  std::vector<float> run(const MatmulKernels& kernels, size_t threads) const {
    const GuardedMemory a(A.data(), A.size() * sizeof(float));
    std::vector<GuardedMemory> copies, outputs;
    std::vector<Product> products;
    for (const Weight& weight : weights) {
      copies.emplace_back(weight.bytes.data(), weight.bytes.size());
      outputs.emplace_back(static_cast<size_t>(M * weight.rows) * sizeof(float));
      products.push_back({{copies.back().data(), weight.format, weight.rows, K},
                          weight.bias.empty() ? nullptr : weight.bias.data(),
                          reinterpret_cast<float*>(outputs.back().data())});
    }
    SpinningPool pool(threads);
    const auto* values = reinterpret_cast<const float*>(a.data());
    const bool twice = activations == Activations::kInt8x2;
    const size_t bytes = twice ? int8x2::scratch_bytes(kernels, products, M, threads)
                               : kernels.scratch_bytes(products, M, activations, threads);
    const size_t aligned = (bytes + 63) / 64 * 64;
    const GuardedMemory scratch(aligned);
    std::memset(scratch.data(), 0xff, aligned);
    auto* memory = reinterpret_cast<std::byte*>(scratch.data());
    if (twice)
      int8x2::multiply(kernels, products, values, M, pool, memory);
    else
      kernels.multiply(products, values, M, activations, pool, memory);
    std::vector<float> result;
    for (const Product& product : products)
      result.insert(result.end(), product.output, product.output + M * product.weight.rows);
    return result;
  }

  // Return the sum of the magnitudes of each output's terms, from the weights as the kernels dequantize them.
  std::vector<double> magnitudes(const MatmulKernels& kernels) const {
    std::vector<double> result;
    for (const Weight& weight : weights) {
      const Matrix matrix = {weight.bytes.data(), weight.format, weight.rows, K};
      std::vector<double> of_weight(static_cast<size_t>(M * weight.rows));
      for (int64_t n = 0; n < weight.rows; n++) {
        const size_t row_bytes = matrix.row_bytes();
        const GuardedMemory row(matrix.data + static_cast<size_t>(n) * row_bytes, row_bytes);
        const GuardedMemory floats(static_cast<size_t>(K) * sizeof(float));
        auto* w = reinterpret_cast<float*>(floats.data());
        kernels.dequantize(weight.format, row.data(), K, w);
        for (int64_t m = 0; m < M; m++) {
          double sum = weight.bias.empty() ? 0 : std::fabs(weight.bias[static_cast<size_t>(n)]);
          for (int64_t k = 0; k < K; k++)
            sum += std::fabs(static_cast<double>(w[k]) * A[static_cast<size_t>(m * K + k)]);
          of_weight[static_cast<size_t>(m * weight.rows + n)] = sum;
        }
      }
      result.insert(result.end(), of_weight.begin(), of_weight.end());
    }
    return result;
  }

  std::string description() const {
    std::string text = std::to_string(M) + " rows of A, K " + std::to_string(K) + ", activations " +
                       std::to_string(static_cast<int>(activations)) + (odd ? ", odd" : "");
    for (const Weight& weight : weights)
      text += ", " + std::string(info(weight.format).name) + " x " + std::to_string(weight.rows);
    return text;
  }
};

Call random_call(int number, Random& random) {
  Call call;
  call.activations = static_cast<Activations>(number / kFormatCount % 3);
  call.odd = random() % 8 == 0;
  call.M = random() % 2 ? between(1, 12, random) : between(1, 90, random);
  // Each format has its turn, and others may be added. K is a multiple of the longest block; for floats, any number.
  std::vector<Format> formats = {static_cast<Format>(number % kFormatCount)};
  while (random() % 3 == 0) formats.push_back(static_cast<Format>(random() % kFormatCount));
  int block = 1;
  for (Format format : formats) block = std::max(block, info(format).block_weights);
  call.K = block * between(1, block == 1 ? 600 : 1200 / block, random);
  std::normal_distribution<float> normal;
  for (int64_t i = 0; i < call.M * call.K; i++) call.A.push_back(normal(random));
  constexpr uint16_t kOddHalves[] = {0, 1, 0x7c00, 0x7e00};  // zero, subnormal, infinite, NaN
  const uint16_t* odd_half = call.odd ? &kOddHalves[random() % 4] : nullptr;
  if (call.odd && random() % 2) call.A[random() % call.A.size()] = std::numeric_limits<float>::quiet_NaN();
  for (Format format : formats) {
    Weight weight = {format, between(1, random() % 4 ? 40 : 150, random), {}, {}};
    weight.bytes = random_weights(format, weight.rows, call.K, odd_half, random);
    const bool biased = random() % 2;
    for (int64_t n = 0; biased && n < weight.rows; n++) weight.bias.push_back(normal(random));
    call.weights.push_back(std::move(weight));
  }
  return call;
}

}  // namespace

int main(int argc, char** argv) {
  const int calls = argc > 1 ? std::atoi(argv[1]) : 3 * kFormatCount;
  Random random(argc > 2 ? static_cast<uint32_t>(std::atoi(argv[2])) : 1);
  for (int i = 0; i < calls; i++) {
    const Call call = random_call(i, random);
    const size_t threads = 1 + random() % 4;
    const std::vector<float> expected = call.run(scalar::kMatmul, threads);
    for (std::string_view name : kMatmulKernelNames) {
      const MatmulKernels* kernels = matmul_kernels_by_name(name);
      if (!kernels) continue;
      const std::vector<float> found = call.run(*kernels, threads);
      const std::vector<double> magnitudes = call.magnitudes(*kernels);
      for (size_t at = 0; at < expected.size(); at++) {
        const double difference = std::fabs(static_cast<double>(found[at]) - expected[at]);
        const bool same = call.odd || !std::isfinite(expected[at])
                              ? std::isfinite(found[at]) == std::isfinite(expected[at])
                              : difference <= 1e-6 * magnitudes[at];
        if (same) continue;
        std::printf("call %d, %s: output %zu is %g, expected %g (magnitudes %g): %s\n", i, std::string(name).c_str(),
                    at, found[at], expected[at], magnitudes[at], call.description().c_str());
        return 1;
      }
    }
  }
  std::printf("%d calls\n", calls);
  return 0;
}
