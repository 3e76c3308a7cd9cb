// The grids of the i-quants, part of those formats' definition.
#pragma once

#include <cstdint>

namespace llama3::scalar {

struct Grids {
  int8_t iq1[2048][8];
  int8_t iq2_xxs[256][8];
  int8_t iq2_xs[512][8];
  int8_t iq2_s[1024][8];
  int8_t iq3_xxs[256][4];
  int8_t iq3_s[512][4];
};

const Grids& grids();  // built from their packed form at the first call

}  // namespace llama3::scalar
