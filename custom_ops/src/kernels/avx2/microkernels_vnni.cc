// The tile kernels that multiply with vpdpbusd.
#include "kernels/avx2/microkernels.h"

namespace llama3::avx2 {

TileKernel* const* tile_kernels_vnni(const TileTraits& traits) {
  using enum Dot;
  using enum Minima;
  return kernels_among<
      // q4_k, q5_k; q2_k
      TileTraits{.dot = kVNNI, .sub_block = 32, .run = 32, .minima = kIntegers},
      TileTraits{.dot = kVNNI, .sub_block = 16, .run = 16, .minima = kIntegers},
      // q3_k, q6_k, iq1_m, iq2_xs, iq2_s; iq4_xs, iq1_s, iq2_xxs, iq3, tq
      TileTraits{.dot = kVNNI, .sub_block = 16, .run = 16, .shifted = true},
      TileTraits{.dot = kVNNI, .sub_block = 32, .run = 32, .shifted = true},
      // q4_0, q5_0, q8_0, iq4_nl, mxfp4
      TileTraits{.dot = kVNNI, .sub_block = 32, .run = 32, .shifted = true, .per_32 = true},
      // q4_1, q5_1
      TileTraits{.dot = kVNNI, .sub_block = 32, .run = 32, .minima = kFloats, .per_32 = true},
      // nvfp4
      TileTraits{.dot = kVNNI, .sub_block = 16, .run = 16, .shifted = true, .per_32 = true}>(traits);
}

}  // namespace llama3::avx2
