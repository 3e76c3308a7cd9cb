// What the machine can do at most, measured beside a kernel: reading memory, and multiplying int8 in registers.
#pragma once

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstdint>
#include <vector>

#include "kernels/avx512/intrinsics.h"
#include "parallel.h"

namespace llama3::bench {

inline double seconds() {
  return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

inline double median(std::vector<double> values) {
  std::nth_element(values.begin(), values.begin() + static_cast<long>(values.size() / 2), values.end());
  return values[values.size() / 2];
}

// Reads every byte once, each thread a contiguous part, with plain loads and prefetches.
inline void read_all(const uint8_t* data, size_t bytes, Parallel& parallel) {
  static std::atomic<uint64_t> sink;
  const size_t part = bytes / parallel.width() / 256 * 256;
  parallel.run(parallel.width(), [&](size_t thread) {
    const uint8_t* from = data + thread * part;
    __m512i sums[4] = {};
    for (size_t i = 0; i + 256 <= part; i += 256)
      for (int j = 0; j < 4; j++) {
        _mm_prefetch(from + i + 4096 + 64 * j, _MM_HINT_T0);
        sums[j] = _mm512_add_epi64(sums[j], _mm512_loadu_si512(from + i + 64 * j));
      }
    for (const __m512i& sum : sums) sink += static_cast<uint64_t>(_mm512_reduce_add_epi64(sum));
  });
}

// `rounds` times 16 independent vpdpbusd of 64 multiply-adds a thread. In assembly, so that nothing is spilled.
inline double multiply_adds_in_registers(int64_t rounds, Parallel& parallel) {
  parallel.run(parallel.width(), [&](size_t) {
    for (int64_t i = 0; i < rounds; i++)
      __asm__ volatile(
          ".irp n,0,1,2,3,4,5,6,7,8,9,10,11,12,13,14,15\n"
          "vpdpbusd %%zmm16, %%zmm17, %%zmm\\n\n"
          ".endr\n" ::
              : "xmm0", "xmm1", "xmm2", "xmm3", "xmm4", "xmm5", "xmm6", "xmm7", "xmm8", "xmm9", "xmm10", "xmm11",
                "xmm12", "xmm13", "xmm14", "xmm15");
  });
  return static_cast<double>(rounds) * 16 * 64 * static_cast<double>(parallel.width());
}

}  // namespace llama3::bench
