// Forced inlining leaves no function of one instruction set for the linker to merge with the same function of another.
#pragma once

#define LLAMA3_ALWAYS_INLINE __attribute__((always_inline))  // for a lambda
#define LLAMA3_INLINE static inline LLAMA3_ALWAYS_INLINE
