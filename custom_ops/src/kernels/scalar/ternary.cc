// tq1_0 and tq2_0: weights of -1, 0 and 1, followed by one float16 scale.
#include "kernels/half.h"
#include "kernels/scalar/unpack.h"

namespace llama3::scalar {

template <>
void unpack<Format::kTQ1_0>(const uint8_t* block, int8_t* q, float* scale, float*) {
  // A byte contains five base-3 digits as a fraction of 256. After multiplying by a power of 3, the carry of another
  // multiplication by 3 is the next digit. 32 bytes contain 160 weights, 16 bytes 80, and the last 4 bytes 16, four
  // digits each.
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
  for (int part = 0; part < 8; part++)  // 32 bytes contain 128 weights, 32 at each shift
    for (int i = 0; i < 32; i++)
      q[32 * part + i] = static_cast<int8_t>((block[part / 4 * 32 + i] >> (part % 4 * 2) & 3) - 1);
}

}  // namespace llama3::scalar
