// Which instruction set the kernels use, decided once a process.
#pragma once

namespace llama3 {

enum class InstructionSet { kScalar, kNEON, kAVX2, kAVX2_VNNI, kAVX512 };

// Whether the processor and the operating system support it.
bool supported(InstructionSet set);

// The best that is supported, or what the environment variable LLAMA3_CPU names: scalar, neon, avx2, avx2_vnni or
// avx512, for tests. One that is not supported falls to the best below it.
InstructionSet instruction_set();

#if defined(__x86_64__)
// Asked of the processor itself: not every compiler's __builtin_cpu_supports knows what it runs on (zig's does not).
bool is_amd();
bool has_avx512_bf16();
#endif

}  // namespace llama3
