// The instruction set that the kernels use, chosen once per process.
#pragma once

namespace llama3 {

enum class InstructionSet { kScalar, kNEON, kAVX2, kAVX2_VNNI, kAVX512 };

// Return whether the processor and the operating system support it.
bool supported(InstructionSet set);

// Return the best supported set, up to the one that the environment variable LLAMA3_CPU names, if any: scalar, neon,
// avx2, avx2_vnni or avx512. The variable is for tests.
InstructionSet instruction_set();

#if defined(__x86_64__)
// Return what the processor itself says: __builtin_cpu_supports does not work with every compiler (not with zig's).
bool is_amd();
bool has_avx512_bf16();
#endif

}  // namespace llama3
