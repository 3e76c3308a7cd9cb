// iq1_s to iq3_s: indices into a grid of four or eight small integers, with separate signs. iq4_xs: four bits that
// index a codebook.
#include <cstring>

#include "kernels/half.h"
#include "kernels/scalar/codebooks.h"
#include "kernels/scalar/grids.h"
#include "kernels/scalar/unpack.h"

namespace llama3::scalar {
namespace {

// Return the eight sign bits of eight weights from the seven that are stored: an even number is negative.
uint32_t eight_signs(uint32_t seven) { return seven | static_cast<uint32_t>(__builtin_parity(seven)) << 7; }

// Copy four or eight positive values at once, negated where a sign bit is set. Bit i is spread to byte i. Negating a
// byte above zero (its complement plus one) does not carry into the next byte.
template <class Word>
void copy_signed(const int8_t* values, uint32_t signs, int8_t* q) {
  constexpr auto kOnes = static_cast<Word>(0x0101010101010101u), kBits = static_cast<Word>(0x8040201008040201u);
  const Word chosen = static_cast<Word>((signs & 0xff) * kOnes) & kBits;
  const Word negative = (chosen + kOnes * 0x7f) >> 7 & kOnes;
  const Word result = (load<Word>(values) ^ static_cast<Word>(negative * 0xff)) + negative;
  std::memcpy(q, &result, sizeof result);
}

// Copy values of iq1, times eight. The grid has -1, 0 and 1, and an eighth is added to or subtracted from each, so
// eight times the result is whole.
void copy_shifted(const int8_t* values, bool minus, int8_t* q) {
  for (int i = 0; i < 8; i++) q[i] = static_cast<int8_t>(8 * values[i] + (minus ? -1 : 1));
}

}  // namespace

template <>
void unpack<Format::kIQ2_XXS>(const uint8_t* block, int8_t* q, float* scale, float*) {
  const Grids& grid = grids();
  const float d = half_at(block);
  for (int j = 0; j < 8; j++) {
    const uint8_t* indices = block + 2 + 8 * j;
    const uint32_t signs_and_scale = load<uint32_t>(indices + 4);
    scale[2 * j] = scale[2 * j + 1] = d * (0.5f + static_cast<float>(signs_and_scale >> 28)) * 0.25f;
    for (int i = 0; i < 4; i++)
      copy_signed<uint64_t>(grid.iq2_xxs[indices[i]], eight_signs(signs_and_scale >> (7 * i) & 127),
                            q + 32 * j + 8 * i);
  }
}

template <>
void unpack<Format::kIQ2_XS>(const uint8_t* block, int8_t* q, float* scale, float*) {
  const Grids& grid = grids();
  const float d = half_at(block);
  for (int i = 0; i < 32; i++) {
    const uint32_t code = load<uint16_t>(block + 2 + 2 * i);
    copy_signed<uint64_t>(grid.iq2_xs[code & 511], eight_signs(code >> 9), q + 8 * i);
  }
  for (int j = 0; j < 16; j++)
    scale[j] = d * (0.5f + static_cast<float>(block[66 + j / 2] >> (j % 2 * 4) & 15)) * 0.25f;
}

template <>
void unpack<Format::kIQ2_S>(const uint8_t* block, int8_t* q, float* scale, float*) {
  const Grids& grid = grids();
  const float d = half_at(block);
  const uint8_t *low = block + 2, *signs = block + 34, *high = block + 66, *scales = block + 74;
  for (int i = 0; i < 32; i++)
    copy_signed<uint64_t>(grid.iq2_s[low[i] | (high[i / 4] >> (i % 4 * 2) & 3) << 8], signs[i], q + 8 * i);
  for (int j = 0; j < 16; j++) scale[j] = d * (0.5f + static_cast<float>(scales[j / 2] >> (j % 2 * 4) & 15)) * 0.25f;
}

template <>
void unpack<Format::kIQ3_XXS>(const uint8_t* block, int8_t* q, float* scale, float*) {
  const Grids& grid = grids();
  const float d = half_at(block);
  for (int j = 0; j < 8; j++) {
    const uint8_t* indices = block + 2 + 8 * j;
    const uint32_t signs_and_scale = load<uint32_t>(block + 66 + 4 * j);
    scale[2 * j] = scale[2 * j + 1] = d * (0.5f + static_cast<float>(signs_and_scale >> 28)) * 0.5f;
    for (int i = 0; i < 4; i++) {
      const uint32_t signs = eight_signs(signs_and_scale >> (7 * i) & 127);
      copy_signed<uint32_t>(grid.iq3_xxs[indices[2 * i]], signs, q + 32 * j + 8 * i);
      copy_signed<uint32_t>(grid.iq3_xxs[indices[2 * i + 1]], signs >> 4, q + 32 * j + 8 * i + 4);
    }
  }
}

template <>
void unpack<Format::kIQ3_S>(const uint8_t* block, int8_t* q, float* scale, float*) {
  const Grids& grid = grids();
  const float d = half_at(block);
  const uint8_t *low = block + 2, *high = block + 66, *signs = block + 74, *scales = block + 106;
  for (int i = 0; i < 64; i++)
    copy_signed<uint32_t>(grid.iq3_s[low[i] | (high[i / 8] >> (i % 8) & 1) << 8], signs[i / 2] >> (i % 2 * 4),
                          q + 4 * i);
  for (int j = 0; j < 8; j++)
    scale[2 * j] = scale[2 * j + 1] = d * static_cast<float>(1 + 2 * (scales[j / 2] >> (j % 2 * 4) & 15));
}

template <>
void unpack<Format::kIQ1_S>(const uint8_t* block, int8_t* q, float* scale, float*) {
  const Grids& grid = grids();
  const float d = half_at(block);
  for (int j = 0; j < 8; j++) {
    const uint32_t high = load<uint16_t>(block + 34 + 2 * j);
    scale[2 * j] = scale[2 * j + 1] = d * static_cast<float>(2 * (high >> 12 & 7) + 1) / 8.0f;
    for (int i = 0; i < 4; i++)
      copy_shifted(grid.iq1[block[2 + 4 * j + i] | (high >> (3 * i) & 7) << 8], high & 0x8000, q + 32 * j + 8 * i);
  }
}

template <>
void unpack<Format::kIQ1_M>(const uint8_t* block, int8_t* q, float* scale, float*) {
  const Grids& grid = grids();
  const uint8_t *low = block, *high = block + 32, *scales = block + 48;
  // The super-block's float16 is spread over the top nibbles of the four words of scales.
  uint32_t d_bits = 0;
  for (int i = 0; i < 4; i++) d_bits |= static_cast<uint32_t>(load<uint16_t>(scales + 2 * i) >> 12) << (4 * i);
  const float d = half_to_float(static_cast<uint16_t>(d_bits));
  for (int j = 0; j < 16; j++)
    scale[j] = d * static_cast<float>(2 * (load<uint16_t>(scales + j / 4 * 2) >> (j % 4 * 3) & 7) + 1) / 8.0f;
  for (int i = 0; i < 32; i++) {
    const uint32_t nibble = high[i / 2] >> (i % 2 * 4) & 15;
    copy_shifted(grid.iq1[low[i] | (nibble & 7) << 8], nibble & 8, q + 8 * i);
  }
}

template <>
void unpack<Format::kIQ4_XS>(const uint8_t* block, int8_t* q, float* scale, float*) {
  const float d = half_at(block);
  const uint32_t high_bits = load<uint16_t>(block + 2);
  for (int j = 0; j < 8; j++) {
    const int low = block[4 + j / 2] >> (j % 2 * 4) & 15, high = static_cast<int>(high_bits >> (2 * j) & 3);
    scale[2 * j] = scale[2 * j + 1] = d * static_cast<float>((low | high << 4) - 32);
    look_up_nibbles(kCodebookIQ4, block + 8 + 16 * j, 16, q + 32 * j);
  }
}

}  // namespace llama3::scalar
