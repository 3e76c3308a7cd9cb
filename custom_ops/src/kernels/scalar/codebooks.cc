// iq4_nl, iq4_xs, mxfp4, nvfp4 (four bits that index a code book), tq1_0 and tq2_0 (three values).
#include "kernels/codebooks.h"

#include "kernels/half.h"
#include "kernels/scalar/unpack.h"

namespace llama3::scalar {
namespace {

// `half` bytes hold 2 * half weights, the low nibbles first.
void look_up_nibbles(const int8_t* codebook, const uint8_t* bytes, int half, int8_t* q) {
  for (int i = 0; i < half; i++) {
    q[i] = codebook[bytes[i] & 15];
    q[i + half] = codebook[bytes[i] >> 4];
  }
}

}  // namespace

void unpack_iq4_nl(const uint8_t* block, int8_t* q, float* scale, float*) {
  scale[0] = scale[1] = half_at(block);
  look_up_nibbles(kCodebookIQ4, block + 2, 16, q);
}

void unpack_iq4_xs(const uint8_t* block, int8_t* q, float* scale, float*) {
  const float d = half_at(block);
  const uint32_t high_bits = load<uint16_t>(block + 2);
  for (int j = 0; j < 8; j++) {
    const int low = block[4 + j / 2] >> (j % 2 * 4) & 15, high = static_cast<int>(high_bits >> (2 * j) & 3);
    scale[2 * j] = scale[2 * j + 1] = d * static_cast<float>((low | high << 4) - 32);
    look_up_nibbles(kCodebookIQ4, block + 8 + 16 * j, 16, q + 32 * j);
  }
}

void unpack_mxfp4(const uint8_t* block, int8_t* q, float* scale, float*) {
  scale[0] = scale[1] = half_of_e8m0(block[0]);
  look_up_nibbles(kCodebookE2M1, block + 1, 16, q);
}

void unpack_nvfp4(const uint8_t* block, int8_t* q, float* scale, float*) {
  for (int j = 0; j < 4; j++) {
    scale[j] = half_of_ue4m3(block[j]);
    look_up_nibbles(kCodebookE2M1, block + 4 + 8 * j, 8, q + 16 * j);
  }
}

void unpack_tq1_0(const uint8_t* block, int8_t* q, float* scale, float*) {
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

void unpack_tq2_0(const uint8_t* block, int8_t* q, float* scale, float*) {
  const float d = half_at(block + 64);
  for (int j = 0; j < 16; j++) scale[j] = d;
  for (int part = 0; part < 8; part++)  // 32 bytes hold 128 weights, 32 at each shift
    for (int i = 0; i < 32; i++)
      q[32 * part + i] = static_cast<int8_t>((block[part / 4 * 32 + i] >> (part % 4 * 2) & 3) - 1);
}

}  // namespace llama3::scalar
