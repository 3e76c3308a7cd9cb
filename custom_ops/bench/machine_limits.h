// The machine's limits, measured beside a kernel: reading memory, and multiplying int8 in registers.
#pragma once

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstdint>
#include <vector>

#include "kernels/cpu.h"
#include "kernels/intrinsics.h"
#include "parallel.h"

namespace llama3::bench {

inline double seconds() {
  return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

inline double median(std::vector<double> values) {
  std::nth_element(values.begin(), values.begin() + static_cast<long>(values.size() / 2), values.end());
  return values[values.size() / 2];
}

// Read every byte once with plain loads and prefetches, one contiguous part per thread.
inline void read_all(const uint8_t* data, size_t bytes, Parallel& parallel) {
  static std::atomic<uint64_t> sink;
  const size_t part = bytes / parallel.width() / 256 * 256;
  parallel.run(parallel.width(), [&](size_t thread) {
    const uint8_t* from = data + thread * part;
    __m256i sums[8] = {};
    for (size_t i = 0; i + 256 <= part; i += 256)
      for (size_t j = 0; j < 8; j++) {
        if (j % 2 == 0) _mm_prefetch(from + i + 4096 + 32 * j, _MM_HINT_T0);
        const auto* at = reinterpret_cast<const __m256i*>(from + i + 32 * j);
        sums[j] = _mm256_add_epi64(sums[j], _mm256_loadu_si256(at));
      }
    for (const __m256i& sum : sums) sink += static_cast<uint64_t>(_mm256_extract_epi64(sum, 0));
  });
}

// int8 multiply-adds in registers: 12 steps of the chosen instruction set per round, in independent sums. They are in
// assembly to avoid spills.
struct DotProducts {
  void (*round)();
  int multiply_adds;  // per round
};

inline DotProducts dot_products(InstructionSet set) {
#define LLAMA3_REPEAT(step)                                                                                       \
  __asm__ volatile(".irp n,0,1,2,3,4,5,6,7,8,9,10,11\n" step ".endr\n" ::                                         \
                       : "xmm0", "xmm1", "xmm2", "xmm3", "xmm4", "xmm5", "xmm6", "xmm7", "xmm8", "xmm9", "xmm10", \
                         "xmm11", "xmm12")
  if (set == InstructionSet::kAVX512) return {[] { LLAMA3_REPEAT("vpdpbusd %%zmm16, %%zmm17, %%zmm\\n\n"); }, 12 * 64};
  if (set == InstructionSet::kAVX2_VNNI)
    return {[] { LLAMA3_REPEAT("%{vex%} vpdpbusd %%ymm14, %%ymm15, %%ymm\\n\n"); }, 12 * 32};
  // The replacement for vpdpbusd on processors without it. Sums of small products can use fewer instructions.
  return {[] {
            LLAMA3_REPEAT(
                "vpmaddubsw %%ymm14, %%ymm15, %%ymm12\n"
                "vpmaddwd %%ymm13, %%ymm12, %%ymm12\n"
                "vpaddd %%ymm12, %%ymm\\n, %%ymm\\n\n");
          },
          12 * 32};
#undef LLAMA3_REPEAT
}

// Run `rounds` rounds on every thread and return the number of multiply-adds.
inline double multiply_adds_in_registers(int64_t rounds, Parallel& parallel) {
  const DotProducts products = dot_products(instruction_set());
  parallel.run(parallel.width(), [&](size_t) {
    for (int64_t i = 0; i < rounds; i++) products.round();
  });
  return static_cast<double>(rounds * products.multiply_adds) * static_cast<double>(parallel.width());
}

}  // namespace llama3::bench
