// The attention kernels that this machine can run, by name.
#pragma once

#include <string_view>

#include "kernels/attention_kernels.h"
#include "kernels/cpu.h"

namespace llama3 {

inline constexpr std::string_view kAttentionKernelNames[] = {"scalar", "avx2", "avx512", "avx512_bf16", "neon"};

// Return the tables for both cache types, or null if the processor lacks the instructions.
inline const AttentionKernels* attention_kernels_by_name(std::string_view name) {
  if (name == "scalar") return scalar::kAttention;
#if defined(__x86_64__)
  if (name == "avx2" && instruction_set() >= InstructionSet::kAVX2) return avx2::kAttention;
  if (name == "avx512" && instruction_set() == InstructionSet::kAVX512) return avx512::kAttention;
  if (name == "avx512_bf16" && instruction_set() == InstructionSet::kAVX512 && has_avx512_bf16())
    return avx512_bf16::kAttention;
#elif defined(__aarch64__)
  if (name == "neon") return neon::kAttention;
#endif
  return nullptr;
}

}  // namespace llama3
