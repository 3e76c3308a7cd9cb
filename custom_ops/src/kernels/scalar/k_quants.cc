// q2_k to q6_k: 256 weights in sub-blocks of 16 or 32. Each sub-block has a small integer scale (and minimum), which a
// float16 of the super-block multiplies.
#include "kernels/half.h"
#include "kernels/scalar/unpack.h"

namespace llama3::scalar {
namespace {

// Return the two-bit part of weight i of q2_k and q3_k: 32 bytes contain 128 weights, 32 at each shift.
int two_bits(const uint8_t* bytes, int i) { return bytes[i / 128 * 32 + i % 32] >> (i / 32 % 4 * 2) & 3; }

// Return the four-bit part of weight i of q4_k and q5_k: 32 bytes contain 64 weights, the low nibbles first.
int four_bits(const uint8_t* bytes, int i) { return bytes[i / 64 * 32 + i % 32] >> (i / 32 % 2 * 4) & 15; }

// Unpack eight 6-bit scales and eight 6-bit minima from 12 bytes. The first eight bytes have four of each whole, and
// their top bits complete the nibbles of the last four bytes.
void scales_and_minima(const uint8_t* block, float* scale, float* min) {
  const float d = half_at(block), dmin = half_at(block + 2);
  const uint8_t* packed = block + 4;
  for (int j = 0; j < 8; j++) {
    int s, m;
    if (j < 4) {
      s = packed[j] & 63;
      m = packed[j + 4] & 63;
    } else {
      s = (packed[j + 4] & 15) | (packed[j - 4] >> 6 << 4);
      m = (packed[j + 4] >> 4) | (packed[j] >> 6 << 4);
    }
    scale[2 * j] = scale[2 * j + 1] = d * static_cast<float>(s);
    min[2 * j] = min[2 * j + 1] = dmin * static_cast<float>(m);
  }
}

}  // namespace

template <>
void unpack<Format::kQ2_K>(const uint8_t* block, int8_t* q, float* scale, float* min) {
  const float d = half_at(block + 80), dmin = half_at(block + 82);
  for (int j = 0; j < 16; j++) {
    scale[j] = d * static_cast<float>(block[j] & 15);
    min[j] = dmin * static_cast<float>(block[j] >> 4);
  }
  for (int i = 0; i < 256; i++) q[i] = static_cast<int8_t>(two_bits(block + 16, i));
}

template <>
void unpack<Format::kQ3_K>(const uint8_t* block, int8_t* q, float* scale, float*) {
  const uint8_t *high_bits = block, *low_bits = block + 32, *packed = block + 96;
  const float d = half_at(block + 108);
  for (int j = 0; j < 16; j++) {
    const int low = packed[j % 8] >> (j / 8 * 4) & 15, high = packed[8 + j % 4] >> (j / 4 * 2) & 3;
    scale[j] = d * static_cast<float>((low | high << 4) - 32);
  }
  for (int i = 0; i < 256; i++)
    q[i] = static_cast<int8_t>(two_bits(low_bits, i) + ((high_bits[i % 32] >> (i / 32) & 1) << 2) - 4);
}

template <>
void unpack<Format::kQ4_K>(const uint8_t* block, int8_t* q, float* scale, float* min) {
  scales_and_minima(block, scale, min);
  for (int i = 0; i < 256; i++) q[i] = static_cast<int8_t>(four_bits(block + 16, i));
}

template <>
void unpack<Format::kQ5_K>(const uint8_t* block, int8_t* q, float* scale, float* min) {
  scales_and_minima(block, scale, min);
  const uint8_t *high_bits = block + 16, *low_bits = block + 48;
  for (int i = 0; i < 256; i++)
    q[i] = static_cast<int8_t>(four_bits(low_bits, i) | (high_bits[i % 32] >> (i / 32) & 1) << 4);
}

template <>
void unpack<Format::kQ6_K>(const uint8_t* block, int8_t* q, float* scale, float*) {
  const uint8_t *low_bits = block, *high_bits = block + 128;
  const float d = half_at(block + 208);
  for (int j = 0; j < 16; j++) scale[j] = d * static_cast<float>(static_cast<int8_t>(block[192 + j]));
  for (int i = 0; i < 256; i++) {
    // Each half of the super-block has 64 low bytes (two nibbles each) and 32 high bytes (four pairs of bits each).
    const int half = i / 128, part = i / 32 % 4;
    const int low = low_bits[64 * half + i % 64] >> (part / 2 * 4) & 15;
    const int high = high_bits[32 * half + i % 32] >> (part * 2) & 3;
    q[i] = static_cast<int8_t>((low | high << 4) - 32);
  }
}

}  // namespace llama3::scalar
