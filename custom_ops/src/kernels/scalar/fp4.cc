// mxfp4 and nvfp4: four bits that index the codebook of E2M1, with small floating-point scales.
#include "kernels/half.h"
#include "kernels/scalar/codebooks.h"
#include "kernels/scalar/unpack.h"

namespace llama3::scalar {

template <>
void unpack<Format::kMXFP4>(const uint8_t* block, int8_t* q, float* scale, float*) {
  scale[0] = scale[1] = half_of_e8m0(block[0]);
  look_up_nibbles(kCodebookE2M1, block + 1, 16, q);
}

template <>
void unpack<Format::kNVFP4>(const uint8_t* block, int8_t* q, float* scale, float*) {
  for (int j = 0; j < 4; j++) {
    scale[j] = half_of_ue4m3(block[j]);
    look_up_nibbles(kCodebookE2M1, block + 4 + 8 * j, 8, q + 16 * j);
  }
}

}  // namespace llama3::scalar
