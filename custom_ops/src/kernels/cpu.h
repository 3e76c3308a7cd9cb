// Which instruction set the kernels use, decided once a process.
#pragma once

namespace llama3 {

enum class InstructionSet { kScalar, kNEON, kAVX2, kAVX2_VNNI, kAVX512 };

// The best that the processor and the operating system support, or what the environment variable LLAMA3_CPU names:
// scalar, neon, avx2, avx2_vnni or avx512, for tests. One that is not supported falls to the best below it.
InstructionSet instruction_set();

}  // namespace llama3
