// Compare random calls of every attention kernel with the scalar one, on buffers of exactly the required size. This
// program is for sanitizers (address, undefined, thread) and emulators. Arguments: the number of calls and a seed.
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <random>
#include <string>
#include <vector>

#include "attention_kernels_by_name.h"
#include "spinning_pool.h"

using namespace llama3;

namespace {

struct Row {
  int64_t length, past, capacity;
  std::vector<float> q, k, v;
  std::vector<std::byte> keys, values;  // as they were before the call
};

struct Call {
  AttentionShape shape;
  CacheType type;
  std::vector<double> inv_freq;
  std::vector<Row> rows;

  // Return the outputs of the rows, one after another.
  std::vector<float> run(std::string_view name, size_t threads) const {
    std::vector<Row> copies = rows;
    std::vector<std::vector<float>> outputs;
    std::vector<AttentionRow> work;
    for (Row& row : copies) {
      outputs.emplace_back(row.q.size());
      work.push_back({row.q.data(), row.k.data(), row.v.data(), row.length, row.past, row.keys.data(),
                      row.values.data(), row.capacity, outputs.back().data()});
    }
    SpinningPool pool(threads);
    const size_t bytes = attention_scratch_bytes(shape, work, threads);
    const std::unique_ptr<std::byte, decltype(&std::free)> scratch(
        static_cast<std::byte*>(std::aligned_alloc(64, (bytes + 63) / 64 * 64)), &std::free);
    attention_with(attention_kernels_by_name(name)[static_cast<size_t>(type)], shape, type, inv_freq.data(), work, pool,
                   scratch.get());
    std::vector<float> all;
    for (const std::vector<float>& output : outputs) all.insert(all.end(), output.begin(), output.end());
    return all;
  }
};

// Return a random call. A large one has more rows than the kernels process together (kGroupBytes).
Call random_call(std::mt19937& random, bool large) {
  const auto between = [&](int64_t low, int64_t high) {
    return std::uniform_int_distribution<int64_t>(low, high)(random);
  };
  Call call;
  const int64_t group = large ? 9 : between(1, 9);
  call.shape.kv_heads = large ? 3 : between(1, 3);
  call.shape.num_heads = call.shape.kv_heads * group;
  call.shape.head_dim = large ? 256 : 8 * between(1, between(0, 1) ? 32 : 16);
  call.shape.rope_dim = 2 * between(0, call.shape.head_dim / 2);
  call.shape.scale = 1 / std::sqrt(static_cast<float>(call.shape.head_dim));
  call.shape.interleaved = between(0, 1);
  call.type = between(0, 1) ? CacheType::kFloat16 : CacheType::kFloat32;
  for (int64_t i = 0; i < call.shape.rope_dim / 2; i++) call.inv_freq.push_back(std::pow(1e4, -i / 32.0));
  call.rows.resize(static_cast<size_t>(large ? 3 : between(0, 1) ? 1 : between(2, 4)));
  for (Row& row : call.rows) {
    row.length = large ? between(210, 230) : between(0, 1) ? between(1, 6) : between(1, 150);
    row.past = large || between(0, 1) ? between(0, 3) : between(0, 700);
    row.capacity = row.past + row.length + between(0, 2);
    const auto fill = [&](std::vector<float>& values, int64_t count) {
      std::normal_distribution<float> normal;
      for (int64_t i = 0; i < count; i++) values.push_back(normal(random));
    };
    fill(row.q, row.length * call.shape.num_heads * call.shape.head_dim);
    fill(row.k, row.length * call.shape.kv_heads * call.shape.head_dim);
    fill(row.v, row.length * call.shape.kv_heads * call.shape.head_dim);
    const size_t elements = static_cast<size_t>(call.shape.kv_heads * row.capacity * call.shape.head_dim);
    for (std::vector<std::byte>* part : {&row.keys, &row.values}) {
      part->resize(elements * (call.type == CacheType::kFloat16 ? 2 : 4));
      for (size_t i = 0; i < elements; i++) {
        const auto bits = static_cast<uint16_t>(random() % 0x3c00 | (random() % 2 << 15));  // a float16 below 1
        const float value = static_cast<float>(bits) * 0x1p-16f;
        if (call.type == CacheType::kFloat16) {
          std::memcpy(part->data() + 2 * i, &bits, 2);
        } else {
          std::memcpy(part->data() + 4 * i, &value, 4);
        }
      }
    }
  }
  return call;
}

double relative_error(const std::vector<float>& actual, const std::vector<float>& expected) {
  double difference = 0, norm = 0;
  for (size_t i = 0; i < actual.size(); i++) {
    difference += std::pow(static_cast<double>(actual[i]) - expected[i], 2);
    norm += std::pow(static_cast<double>(expected[i]), 2);
  }
  return std::sqrt(difference / norm);
}

}  // namespace

int main(int argc, char** argv) {
  const int calls = argc > 1 ? std::atoi(argv[1]) : 100;
  std::mt19937 random(argc > 2 ? static_cast<uint32_t>(std::atoi(argv[2])) : 1);
  for (int i = 0; i < calls; i++) {
    const Call call = random_call(random, i == 0);
    const size_t threads = 1 + random() % 4;
    const std::vector<float> expected = call.run("scalar", threads);
    for (std::string_view name : kAttentionKernelNames) {
      if (!attention_kernels_by_name(name)) continue;
      const double error = relative_error(call.run(name, threads), expected);
      if (!(error < (name == "avx512_bf16" ? 8e-3 : 1e-6))) {
        std::printf("call %d, %s: relative error %g with %d heads of %d, %d KV heads, rows:", i,
                    std::string(name).c_str(), error, static_cast<int>(call.shape.num_heads),
                    static_cast<int>(call.shape.head_dim), static_cast<int>(call.shape.kv_heads));
        for (const Row& row : call.rows) {
          std::printf(" %d tokens after %d", static_cast<int>(row.length), static_cast<int>(row.past));
        }
        std::printf("\n");
        return 1;
      }
    }
  }
  std::printf("%d calls\n", calls);
  return 0;
}
