// q4_0, q4_1, q5_0, q5_1, q8_0 and iq4_nl: 32 weights with a float16 scale and, in the _1 formats, a float16 minimum.
#include <algorithm>

#include "kernels/half.h"
#include "kernels/scalar/codebooks.h"
#include "kernels/scalar/unpack.h"

namespace llama3::scalar {
namespace {

// Unpack 16 bytes: the low nibbles are weights 0 to 15, the high ones 16 to 31.
void unpack_nibbles(const uint8_t* bytes, int8_t* q, int zero) {
  for (int i = 0; i < 16; i++) {
    q[i] = static_cast<int8_t>((bytes[i] & 15) - zero);
    q[i + 16] = static_cast<int8_t>((bytes[i] >> 4) - zero);
  }
}

// Add the fifth bit of each weight.
void add_fifth_bits(uint32_t bits, int8_t* q) {
  for (int i = 0; i < 32; i++) q[i] = static_cast<int8_t>(q[i] + static_cast<int>((bits >> i & 1) << 4));
}

}  // namespace

template <>
void unpack<Format::kQ4_0>(const uint8_t* block, int8_t* q, float* scale, float*) {
  scale[0] = scale[1] = half_at(block);
  unpack_nibbles(block + 2, q, 8);
}

template <>
void unpack<Format::kQ4_1>(const uint8_t* block, int8_t* q, float* scale, float* min) {
  scale[0] = scale[1] = half_at(block);
  min[0] = min[1] = -half_at(block + 2);
  unpack_nibbles(block + 4, q, 0);
}

template <>
void unpack<Format::kQ5_0>(const uint8_t* block, int8_t* q, float* scale, float*) {
  scale[0] = scale[1] = half_at(block);
  unpack_nibbles(block + 6, q, 16);
  add_fifth_bits(load<uint32_t>(block + 2), q);
}

template <>
void unpack<Format::kQ5_1>(const uint8_t* block, int8_t* q, float* scale, float* min) {
  scale[0] = scale[1] = half_at(block);
  min[0] = min[1] = -half_at(block + 2);
  unpack_nibbles(block + 8, q, 0);
  add_fifth_bits(load<uint32_t>(block + 4), q);
}

template <>
void unpack<Format::kQ8_0>(const uint8_t* block, int8_t* q, float* scale, float*) {
  scale[0] = scale[1] = half_at(block);
  std::copy_n(reinterpret_cast<const int8_t*>(block + 2), 32, q);
}

template <>
void unpack<Format::kIQ4_NL>(const uint8_t* block, int8_t* q, float* scale, float*) {
  scale[0] = scale[1] = half_at(block);
  look_up_nibbles(kCodebookIQ4, block + 2, 16, q);
}

}  // namespace llama3::scalar
