// The matmul kernels that this machine can run, by name.
#pragma once

#include <string_view>

#include "kernels/cpu.h"
#include "kernels/matmul_kernels.h"

namespace llama3 {

inline constexpr std::string_view kMatmulKernelNames[] = {"scalar", "avx2", "avx2_vnni", "avx512", "neon"};

// Return the kernels, or null if the processor lacks the instructions.
inline const MatmulKernels* matmul_kernels_by_name(std::string_view name) {
  if (name == "scalar") return &scalar::kMatmul;
#if defined(__x86_64__)
  if (name == "avx2" && supported(InstructionSet::kAVX2)) return &avx2::kMatmul;
  if (name == "avx2_vnni" && supported(InstructionSet::kAVX2_VNNI)) return &avx2_vnni::kMatmul;
  if (name == "avx512" && supported(InstructionSet::kAVX512)) return &avx512::kMatmul;
#elif defined(__aarch64__)
  if (name == "neon" && supported(InstructionSet::kNEON)) return &neon::kMatmul;
#endif
  return nullptr;
}

}  // namespace llama3
