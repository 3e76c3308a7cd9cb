// Attention with AVX-512. Tiles over a float16 cache multiply pairs of bfloat16 (vdpbf16ps), which does twice the work
// of a float32 instruction on AMD's processors. Everything else is the same as in attention.cc.
#include "kernels/attention_kernels.h"
#include "kernels/attention_rows.h"
#include "kernels/attention_steps.h"
#include "kernels/attention_tiles.h"
#include "kernels/avx512/simd.h"

namespace llama3::avx512_bf16 {
namespace {

using avx512::Simd;

struct BFloat16Products {
  using Simd = avx512::Simd;
  using Vector = __m512;
  using Operand = __m512bh;
  using Word = uint32_t;  // two values, the first in the lower half
  static constexpr int64_t kValuesPerWord = 2;

  static Operand load(const Word* words) { return (__m512bh)_mm512_loadu_si512(words); }
  static Operand broadcast(const Word* word) { return (__m512bh)_mm512_set1_epi32(static_cast<int>(*word)); }
  static Vector multiply_add(Operand a, Operand b, Vector sum) { return _mm512_dpbf16_ps(sum, a, b); }

  static void pack_row(const float* source, int64_t count, Word* words) {
    for (int64_t i = 0; i < count; i += 16) {
      const __m256i pairs = (__m256i)_mm512_cvtneps_pbh(_mm512_loadu_ps(source + i));
      _mm256_storeu_si256(reinterpret_cast<__m256i*>(words + i / 2), pairs);
    }
  }

  // words[w][p] = values 2w and 2w + 1 of the key at position p; [padded_dim / 2, kTilePositions].
  static void pack_keys(const uint16_t* keys, int64_t count, int64_t head_dim, int64_t padded_dim, Word* words) {
    for (int64_t position = 0; position < kTilePositions; position += 16) {
      for (int64_t i = 0; i < padded_dim; i += 32) {
        __m512i square[16];
        for (int64_t p = 0; p < 16; p++) {
          const uint16_t* key = keys + (position + p) * head_dim;
          square[p] = position + p < count ? (__m512i)_mm512_cvtne2ps_pbh(load_padded<Simd>(key, i + 16, head_dim),
                                                                          load_padded<Simd>(key, i, head_dim))
                                           : _mm512_setzero_si512();
        }
        avx512::transpose_words(square);
        for (int64_t p = 0; p < 16; p++) {
          _mm512_storeu_si512(words + (i / 2 + p) * kTilePositions + position, square[p]);
        }
      }
    }
  }

  // words[w][i] = value i at the positions 2w and 2w + 1; [kTilePositions / 2, padded_dim].
  static void pack_values(const uint16_t* values, int64_t count, int64_t head_dim, int64_t padded_dim, Word* words) {
    const __m512i interleave = _mm512_add_epi16(
        _mm512_set1_epi32(16 << 16),
        _mm512_set_epi32(0x000f000f, 0x000e000e, 0x000d000d, 0x000c000c, 0x000b000b, 0x000a000a, 0x00090009, 0x00080008,
                         0x00070007, 0x00060006, 0x00050005, 0x00040004, 0x00030003, 0x00020002, 0x00010001, 0));
    const auto at = [&](int64_t position, int64_t i) {
      return position < count ? load_padded<Simd>(values + position * head_dim, i, head_dim) : _mm512_setzero_ps();
    };
    for (int64_t position = 0; position < kTilePositions; position += 2) {
      for (int64_t i = 0; i < padded_dim; i += 16) {
        const auto pair = (__m512i)_mm512_cvtne2ps_pbh(at(position + 1, i), at(position, i));
        _mm512_storeu_si512(words + position / 2 * padded_dim + i, _mm512_permutexvar_epi16(interleave, pair));
      }
    }
  }
};

}  // namespace

const AttentionKernels kAttention[2] = {
    {prepare<Simd, uint16_t>, attend_rows<Simd, uint16_t>, attend_tiles<BFloat16Products, uint16_t>, merge},
    {prepare<Simd, float>, attend_rows<Simd, float>, attend_tiles<FloatProducts<Simd>, float>, merge},
};

}  // namespace llama3::avx512_bf16
