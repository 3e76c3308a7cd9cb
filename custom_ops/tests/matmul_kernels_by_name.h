// The matmul kernels that this machine can run, by name.
#pragma once

#include <string_view>

#include "kernels/cpu.h"
#include "kernels/matmul_kernels.h"

namespace llama3 {

inline constexpr std::string_view kMatmulKernelNames[] = {"scalar", "avx512", "neon"};

// Null where the processor lacks the instructions.
inline const MatmulKernels* matmul_kernels_by_name(std::string_view name) {
  if (name == "scalar") return &scalar::kMatmul;
#if defined(__x86_64__)
  if (name == "avx512" && instruction_set() == InstructionSet::kAVX512) return &avx512::kMatmul;
#elif defined(__aarch64__)
  if (name == "neon" && instruction_set() == InstructionSet::kNEON) return &neon::kMatmul;
#endif
  return nullptr;
}

}  // namespace llama3
