// Measure how close attention comes to the machine's limits, with 32 query heads and 8 KV heads of 128. The argument is
// the number of threads (default: 2).
// - One token: bytes of the cache per second, compared with a plain read loop over other memory of the same size.
// - A chunk of 512 tokens: useful multiply-adds per second, without those that the causal mask hides.
// - One token of each of 8 rows at a depth of 512: all rows in one call, compared with a call per row.
// The two sides of a comparison run in alternation.
#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <memory>
#include <string>
#include <vector>

#include "attention_kernels_by_name.h"
#include "machine_limits.h"
#include "spinning_pool.h"

namespace {

using namespace llama3;
using namespace llama3::bench;

constexpr AttentionShape kShape{
    .num_heads = 32, .kv_heads = 8, .head_dim = 128, .rope_dim = 128, .scale = 0.08838834764f};
constexpr size_t kMemory = size_t{1100} << 20;  // more than any cache holds: the layers are used in turn

struct Free {
  void operator()(void* memory) const { std::free(memory); }
};
template <class T>
using Aligned = std::unique_ptr<T[], Free>;

template <class T>
Aligned<T> aligned_memory(size_t count) {
  return Aligned<T>(static_cast<T*>(std::aligned_alloc(64, (count * sizeof(T) + 63) / 64 * 64)));
}

struct Layer {
  Aligned<uint16_t> keys, values;
};

class AttentionBench {
 public:
  explicit AttentionBench(size_t threads) : pool_(threads), inputs_(512 * 4096), output_(512 * 4096), inv_freq_(64) {
    std::srand(1);
    for (float& value : inputs_) value = static_cast<float>(std::rand()) / RAND_MAX - 0.5f;
    for (size_t i = 0; i < 64; i++) inv_freq_[i] = std::pow(500000.0, -2.0 * static_cast<double>(i) / 128);
  }

  void token(std::string_view name, int64_t depth) {
    std::vector<Layer>& layers = layers_of(depth);
    const size_t bytes = static_cast<size_t>(8 * depth * 128) * 2;
    std::vector<double> reads, kernels;
    for (size_t repeat = 0; repeat < 4 * layers.size(); repeat++) {
      const Layer& layer = layers[repeat % layers.size()];
      Layer& other = layers[(repeat + layers.size() / 2) % layers.size()];
      const double start = seconds();
      read_all(reinterpret_cast<const uint8_t*>(layer.keys.get()), bytes, pool_);
      read_all(reinterpret_cast<const uint8_t*>(layer.values.get()), bytes, pool_);
      const double middle = seconds();
      attend(name, {row(other, 1, depth - 1, depth)});
      reads.push_back(middle - start);
      kernels.push_back(seconds() - middle);
    }
    const double read = median(reads), kernel = median(kernels);
    const double gigabytes = 2e-9 * static_cast<double>(bytes);
    std::printf("%-12s 1 token at depth %5d: %.3f ms, %.1f of %.1f GB/s: %.0f%%\n", std::string(name).c_str(),
                static_cast<int>(depth), kernel * 1e3, gigabytes / kernel, gigabytes / read, 100 * read / kernel);
    std::fflush(stdout);
  }

  void chunk(std::string_view name, int64_t length, int64_t past) {
    std::vector<Layer>& layers = layers_of(4096);
    std::vector<double> times;
    for (size_t repeat = 0; repeat < 7; repeat++) {
      const double start = seconds();
      attend(name, {row(layers[repeat % layers.size()], length, past, 4096)});
      times.push_back(seconds() - start);
    }
    const double time = median(times);
    const int64_t pairs = length * past + length * (length + 1) / 2;  // of a query and a key
    const double products = 32.0 * 256 * static_cast<double>(pairs);
    std::printf("%-12s %d tokens at depth %d: %.2f ms (best %.2f), %.0f G multiply-adds/s\n", std::string(name).c_str(),
                static_cast<int>(length), static_cast<int>(past), time * 1e3,
                *std::min_element(times.begin(), times.end()) * 1e3, products / time * 1e-9);
    std::fflush(stdout);
  }

  void rows(std::string_view name, size_t count, int64_t depth) {
    std::vector<Layer>& layers = layers_of(depth);
    std::vector<double> together, apart;
    for (size_t repeat = 0; repeat < 200; repeat++) {
      const auto rows_from = [&](size_t first) {
        std::vector<AttentionRow> rows;
        rows.reserve(count);
        for (size_t i = 0; i < count; i++) {
          rows.push_back(row(layers[(first + i) % layers.size()], 1, depth - 1, depth, i));
        }
        return rows;
      };
      const std::vector<AttentionRow> some = rows_from(2 * repeat * count),
                                      others = rows_from((2 * repeat + 1) * count);
      const double start = seconds();
      attend(name, some);
      const double middle = seconds();
      for (const AttentionRow& other : others) attend(name, {other});
      together.push_back(middle - start);
      apart.push_back(seconds() - middle);
    }
    std::printf("%-12s 1 token of %d rows at depth %d: %.3f ms together, %.3f ms one after another\n",
                std::string(name).c_str(), static_cast<int>(count), static_cast<int>(depth), median(together) * 1e3,
                median(apart) * 1e3);
    std::fflush(stdout);
  }

 private:
  // Return the arguments for row `index` of a call.
  AttentionRow row(Layer& layer, int64_t length, int64_t past, int64_t capacity, size_t index = 0) {
    return {.q = inputs_.data(),
            .k = inputs_.data() + 64,
            .v = inputs_.data() + 128,
            .length = length,
            .past = past,
            .keys = layer.keys.get(),
            .values = layer.values.get(),
            .capacity = capacity,
            .output = output_.data() + index * 4096};
  }

  void attend(std::string_view name, const std::vector<AttentionRow>& rows) {
    const size_t bytes = attention_scratch_bytes(kShape, rows, pool_.width());
    if (bytes > scratch_bytes_) {
      scratch_ = aligned_memory<std::byte>(bytes);
      scratch_bytes_ = bytes;
    }
    attention_with(attention_kernels_by_name(name)[0], kShape, CacheType::kFloat16, inv_freq_.data(), rows, pool_,
                   scratch_.get());
  }

  // Return layers of this depth, filled with random float16 numbers below 1.
  std::vector<Layer>& layers_of(int64_t depth) {
    if (depth == layers_depth_) return layers_;
    const size_t count = static_cast<size_t>(8 * depth * 128);
    layers_.clear();
    layers_.resize(kMemory / (4 * count) + 1);
    uint32_t state = 12345;
    for (Layer& layer : layers_) {
      for (Aligned<uint16_t>* part : {&layer.keys, &layer.values}) {
        *part = aligned_memory<uint16_t>(count);
        for (size_t i = 0; i < count; i++) {
          state = state * 1664525 + 1013904223;
          (*part)[i] = static_cast<uint16_t>((state >> 16 & 0x8000) | (0x3000 + (state >> 20 & 0xbff)));
        }
      }
    }
    layers_depth_ = depth;
    return layers_;
  }

  SpinningPool pool_;
  std::vector<float> inputs_, output_;
  std::vector<double> inv_freq_;
  std::vector<Layer> layers_;
  int64_t layers_depth_ = 0;
  Aligned<std::byte> scratch_;
  size_t scratch_bytes_ = 0;
};

}  // namespace

int main(int argc, char** argv) {
  AttentionBench bench(argc > 1 ? static_cast<size_t>(std::atoi(argv[1])) : 2);
  for (int64_t depth : {4096, 16384}) {
    for (std::string_view name : kAttentionKernelNames) {
      if (name != "scalar" && attention_kernels_by_name(name)) bench.token(name, depth);
    }
  }
  for (std::string_view name : kAttentionKernelNames) {
    if (name != "scalar" && attention_kernels_by_name(name)) bench.rows(name, 8, 512);
  }
  for (int64_t past : {0, 3584}) {
    for (std::string_view name : kAttentionKernelNames) {
      if (name != "scalar" && attention_kernels_by_name(name)) bench.chunk(name, 512, past);
    }
  }
}
