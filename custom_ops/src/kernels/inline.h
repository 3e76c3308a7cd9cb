// Forced inlining: nothing that was compiled for one instruction set is left for the linker to merge with code for
// another.
#pragma once

#define LLAMA3_ALWAYS_INLINE __attribute__((always_inline))  // of a lambda
#define LLAMA3_INLINE static inline LLAMA3_ALWAYS_INLINE
