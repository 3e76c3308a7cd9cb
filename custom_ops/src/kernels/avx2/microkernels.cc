// The tile kernels, compiled once for each set of traits that a format has.
#include "kernels/avx2/microkernels.h"

namespace llama3::avx2 {

TileKernel* const* tile_kernels(const TileTraits& traits) {
  using enum Dot;
  using enum Minima;
  return kernels_among<
      // q4_k, q5_k, q2_k
      TileTraits{.dot = kPairs, .sub_block = 32, .run = 32, .integer_scales = true, .minima = kIntegers},
      TileTraits{.dot = kPairs, .sub_block = 32, .run = 16, .integer_scales = true, .minima = kIntegers},
      TileTraits{.dot = kPairs, .sub_block = 16, .run = 16, .integer_scales = true, .minima = kIntegers},
      // tq; q3_k, q6_k
      TileTraits{.dot = kPairs, .sub_block = 32, .run = 32, .shifted = true, .integer_scales = true},
      TileTraits{.dot = kPairs, .sub_block = 16, .run = 16, .shifted = true, .integer_scales = true},
      // q4_0, q5_0, mxfp4
      TileTraits{.dot = kPairs, .sub_block = 32, .run = 32, .shifted = true, .per_32 = true},
      // q4_1, q5_1
      TileTraits{.dot = kPairs, .sub_block = 32, .run = 32, .minima = kFloats, .per_32 = true},
      TileTraits{.dot = kPairs, .sub_block = 32, .run = 16, .minima = kFloats, .per_32 = true},
      // q8_0, iq4_nl; iq4_xs, iq1_s, iq2_xxs, iq3
      TileTraits{.dot = kWords, .sub_block = 32, .run = 32, .per_32 = true},
      TileTraits{.dot = kWords, .sub_block = 32, .run = 32},
      // nvfp4; iq1_m, iq2_xs, iq2_s
      TileTraits{.dot = kWords, .sub_block = 16, .run = 16, .per_32 = true},
      TileTraits{.dot = kWords, .sub_block = 16, .run = 16}>(traits);
}

}  // namespace llama3::avx2
