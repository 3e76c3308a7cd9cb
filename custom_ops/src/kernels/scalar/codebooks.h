// Weights of four bits that index a codebook.
#pragma once

#include "kernels/codebooks.h"
#include "kernels/inline.h"

namespace llama3::scalar {

// Look up the 2 * half weights of `half` bytes, the low nibbles first.
LLAMA3_INLINE void look_up_nibbles(const int8_t* codebook, const uint8_t* bytes, int half, int8_t* q) {
  for (int i = 0; i < half; i++) {
    q[i] = codebook[bytes[i] & 15];
    q[i + half] = codebook[bytes[i] >> 4];
  }
}

}  // namespace llama3::scalar
