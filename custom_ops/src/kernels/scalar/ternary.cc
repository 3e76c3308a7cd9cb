// tq1_0 and tq2_0: three values, -1, 0 and 1, with one float16 behind them.
#include "kernels/half.h"
#include "kernels/scalar/unpack.h"

namespace llama3::scalar {

template <>
void unpack<Format::kTQ1_0>(const uint8_t* block, int8_t* q, float* scale, float*) {
  // A byte holds five digits of base 3 as a fraction of 256: times a power of 3, the next digit is the product's carry.
  // 32 bytes hold 160 weights, 16 bytes 80, and the last 4, with four digits each, 16.
  const float d = half_at(block + 52);
  for (int j = 0; j < 16; j++) scale[j] = d;
  const struct {
    int bytes, digits;
  } parts[] = {{32, 5}, {16, 5}, {4, 4}};
  for (const auto& part : parts) {
    int power = 1;
    for (int digit = 0; digit < part.digits; digit++, power *= 3)
      for (int i = 0; i < part.bytes; i++) *q++ = static_cast<int8_t>(((block[i] * power & 255) * 3 >> 8) - 1);
    block += part.bytes;
  }
}

template <>
void unpack<Format::kTQ2_0>(const uint8_t* block, int8_t* q, float* scale, float*) {
  const float d = half_at(block + 64);
  for (int j = 0; j < 16; j++) scale[j] = d;
  for (int part = 0; part < 8; part++)  // 32 bytes hold 128 weights, 32 at each shift
    for (int i = 0; i < 32; i++)
      q[32 * part + i] = static_cast<int8_t>((block[part / 4 * 32 + i] >> (part % 4 * 2) & 3) - 1);
}

}  // namespace llama3::scalar
