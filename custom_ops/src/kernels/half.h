// The small floating-point types of scales and weights, decoded to float32 in portable code.
#pragma once

#include <bit>
#include <cstdint>
#include <cstring>

namespace llama3 {

// Load a number from an address of any alignment (GGUF is little-endian, like every machine that we build for).
template <class T>
inline T load(const void* address) {
  T value;
  std::memcpy(&value, address, sizeof value);
  return value;
}

// Decode IEEE half precision. Subnormals are decoded by an exact subtraction; infinities and NaN keep their class.
inline float half_to_float(uint16_t half) {
  const uint32_t sign = static_cast<uint32_t>(half & 0x8000) << 16;
  const uint32_t magnitude = static_cast<uint32_t>(half & 0x7fff) << 13;
  const uint32_t exponent = magnitude & 0x0f800000;
  uint32_t bits = magnitude + (112u << 23);
  if (exponent == 0x0f800000) bits += 112u << 23;
  if (exponent == 0) {
    bits = std::bit_cast<uint32_t>(std::bit_cast<float>(bits + (1u << 23)) - std::bit_cast<float>(113u << 23));
  }
  return std::bit_cast<float>(bits | sign);
}

inline float half_at(const uint8_t* address) { return half_to_float(load<uint16_t>(address)); }

inline float bfloat_to_float(uint16_t bits) { return std::bit_cast<float>(static_cast<uint32_t>(bits) << 16); }

// Return half of a power-of-two scale of the OCP microscaling formats (MXFP4's codebook has doubled values).
inline float half_of_e8m0(uint8_t exponent) {
  return std::bit_cast<float>(exponent < 2 ? 0x00200000u << exponent : static_cast<uint32_t>(exponent - 1) << 23);
}

// Return half of an unsigned E4M3 scale (NVFP4's codebook has doubled values). 0x7f, NaN in the standard, is 0 in
// ggml.
inline float half_of_ue4m3(uint8_t code) {
  if (code == 0x7f) return 0.0f;
  const int exponent = (code >> 3) & 15;
  const float mantissa = static_cast<float>(code & 7);
  if (exponent == 0) return mantissa * 0x1p-10f;
  return (1.0f + mantissa / 8.0f) * std::bit_cast<float>(static_cast<uint32_t>(exponent - 8 + 127) << 23);
}

}  // namespace llama3
