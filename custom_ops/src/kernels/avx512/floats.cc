#include "kernels/avx512/floats.h"

#include "kernels/avx512/format_kernels.h"

namespace llama3::avx512 {
namespace {

constexpr int kFloatColumns = 8;  // with two registers of weight rows: 16 sums

// How 16 weights are loaded from an address, or fewer: those of a mask.
struct F32 {
  static constexpr int kBytes = 4;
  LLAMA3_INLINE __m512 load(__mmask16 valid, const uint8_t* at) { return _mm512_maskz_loadu_ps(valid, at); }
};
struct F16 {
  static constexpr int kBytes = 2;
  LLAMA3_INLINE __m512 load(__mmask16 valid, const uint8_t* at) {
    return _mm512_cvtph_ps(_mm256_maskz_loadu_epi16(valid, at));
  }
};
struct BF16 {
  static constexpr int kBytes = 2;
  LLAMA3_INLINE __m512 load(__mmask16 valid, const uint8_t* at) {
    const __m512i words = _mm512_cvtepu16_epi32(_mm256_maskz_loadu_epi16(valid, at));
    return _mm512_castsi512_ps(_mm512_slli_epi32(words, 16));
  }
};

constexpr __mmask16 kAll = 0xffff;
LLAMA3_INLINE __mmask16 first_lanes(int64_t count) {
  return count >= 16 ? kAll : static_cast<__mmask16>((1 << count) - 1);
}

template <class W>
LLAMA3_INLINE void to_floats(const uint8_t* row, int64_t count, float* out) {
  for (int64_t i = 0; i < count; i += 16)
    _mm512_storeu_ps(out + i, W::load(first_lanes(count - i), row + W::kBytes * i));
}

// One weight row times kColumns rows of A, each to output[c * stride].
template <class W, int kColumns>
LLAMA3_INLINE void dot_row(const uint8_t* row, int64_t K, const float* A, float bias, float* output, int64_t stride) {
  constexpr int kChains = 4;  // sums that do not wait for each other
  __m512 sums[kColumns][kChains];
#pragma GCC unroll 4
  for (int c = 0; c < kColumns; c++)
#pragma GCC unroll 4
    for (int i = 0; i < kChains; i++) sums[c][i] = _mm512_setzero_ps();
  int64_t k = 0;
  for (; k + 16 * kChains <= K; k += 16 * kChains)
#pragma GCC unroll 4
    for (int i = 0; i < kChains; i++) {
      const uint8_t* at = row + W::kBytes * (k + 16 * i);
      _mm_prefetch(at + kFarAhead, _MM_HINT_T1);
      _mm_prefetch(at + kNearAhead, _MM_HINT_T0);
      const __m512 w = W::load(kAll, at);
#pragma GCC unroll 4
      for (int c = 0; c < kColumns; c++)
        sums[c][i] = _mm512_fmadd_ps(w, _mm512_loadu_ps(A + c * K + k + 16 * i), sums[c][i]);
    }
  for (; k < K; k += 16) {
    const __mmask16 valid = first_lanes(K - k);
    const __m512 w = W::load(valid, row + W::kBytes * k);
#pragma GCC unroll 4
    for (int c = 0; c < kColumns; c++)
      sums[c][0] = _mm512_fmadd_ps(w, _mm512_maskz_loadu_ps(valid, A + c * K + k), sums[c][0]);
  }
#pragma GCC unroll 4
  for (int c = 0; c < kColumns; c++) {
    const __m512 halves[2] = {_mm512_add_ps(sums[c][0], sums[c][1]), _mm512_add_ps(sums[c][2], sums[c][3])};
    output[c * stride] = _mm512_reduce_add_ps(_mm512_add_ps(halves[0], halves[1])) + bias;
  }
}

template <class W>
LLAMA3_INLINE void dot_rows(const uint8_t* row, int64_t K, const float* A, int64_t M, float bias, float* output,
                            int64_t stride) {
  int64_t m = 0;
  for (; m + 4 <= M; m += 4) dot_row<W, 4>(row, K, A + m * K, bias, output + m * stride, stride);
  for (; m < M; m++) dot_row<W, 1>(row, K, A + m * K, bias, output + m * stride, stride);
}

// Two registers of 16 weight rows times the columns of A, over `count` weights.
template <int kColumns>
LLAMA3_INLINE void multiply_float_columns(const float (*weights)[kFloatTileRows], const float* A, int64_t K, int count,
                                          float* sums) {
  __m512 total[2][kColumns];
#pragma GCC unroll 8
  for (int c = 0; c < kColumns; c++)
    for (int g = 0; g < 2; g++) total[g][c] = _mm512_load_ps(sums + c * kFloatTileRows + 16 * g);
  for (int k = 0; k < count; k++) {
    const __m512 low = _mm512_load_ps(weights[k]), high = _mm512_load_ps(weights[k] + 16);
#pragma GCC unroll 8
    for (int c = 0; c < kColumns; c++) {
      const __m512 a = _mm512_set1_ps(A[c * K + k]);
      total[0][c] = _mm512_fmadd_ps(low, a, total[0][c]);
      total[1][c] = _mm512_fmadd_ps(high, a, total[1][c]);
    }
  }
#pragma GCC unroll 8
  for (int c = 0; c < kColumns; c++)
    for (int g = 0; g < 2; g++) _mm512_store_ps(sums + c * kFloatTileRows + 16 * g, total[g][c]);
}

struct alignas(64) FloatTile {
  float rows[16][kSuperBlock];
  float weights[kSuperBlock][kFloatTileRows];
};

}  // namespace

size_t float_row_scratch_bytes(int64_t K) { return static_cast<size_t>(super_blocks(K)) * kSuperBlock * sizeof(float); }

size_t float_tile_scratch_bytes(int64_t M) {
  return sizeof(FloatTile) + static_cast<size_t>(M) * kFloatTileRows * sizeof(float);
}

void dequantize_f32(const uint8_t* row, int64_t count, float* out) { to_floats<F32>(row, count, out); }
void dequantize_f16(const uint8_t* row, int64_t count, float* out) { to_floats<F16>(row, count, out); }
void dequantize_bf16(const uint8_t* row, int64_t count, float* out) { to_floats<BF16>(row, count, out); }

void multiply_float_rows(const Product& product, Dequantize* dequantize, int64_t first, int64_t count, const float* A,
                         int64_t M, std::byte* scratch) {
  const Matrix& weight = product.weight;
  const int64_t K = weight.cols;
  for (int64_t n = first; n < first + count; n++) {
    const uint8_t* row = weight.data + static_cast<size_t>(n) * weight.row_bytes();
    const float bias = product.bias ? product.bias[n] : 0.0f;
    float* output = product.output + n;
    if (weight.format == Format::kF16) {
      dot_rows<F16>(row, K, A, M, bias, output, weight.rows);
    } else if (weight.format == Format::kBF16) {
      dot_rows<BF16>(row, K, A, M, bias, output, weight.rows);
    } else if (weight.format == Format::kF32) {
      dot_rows<F32>(row, K, A, M, bias, output, weight.rows);
    } else {
      dequantize(row, K, reinterpret_cast<float*>(scratch));
      dot_rows<F32>(reinterpret_cast<const uint8_t*>(scratch), K, A, M, bias, output, weight.rows);
    }
  }
}

void multiply_float_tile(const Product& product, Dequantize* dequantize, int64_t first, int64_t count, const float* A,
                         int64_t M, std::byte* scratch) {
  auto& tile = *reinterpret_cast<FloatTile*>(scratch);
  auto* sums = reinterpret_cast<float*>(scratch + sizeof(FloatTile));
  const Matrix& weight = product.weight;
  const FormatInfo& layout = info(weight.format);
  const int64_t K = weight.cols;
  __builtin_memset(sums, 0, static_cast<size_t>(M) * kFloatTileRows * sizeof(float));
  for (int64_t begin = 0; begin < K; begin += kSuperBlock) {
    const int length = static_cast<int>(K - begin < kSuperBlock ? K - begin : kSuperBlock);
    for (int group = 0; group < 2; group++) {
      for (int r = 0; r < 16; r++) {
        const int64_t n = 16 * group + r < count ? first + 16 * group + r : first;  // past the end: any row
        const uint8_t* row = weight.data + static_cast<size_t>(n) * weight.row_bytes();
        dequantize(row + begin / layout.block_weights * layout.block_bytes, length, tile.rows[r]);
      }
      for (int k = 0; k < length; k += 4) {
        __m512i columns[4];
        transpose_4_words(reinterpret_cast<const uint8_t*>(tile.rows[0] + k), sizeof tile.rows[0], columns);
        for (int i = 0; i < 4; i++) _mm512_store_si512(tile.weights[k + i] + 16 * group, columns[i]);
      }
    }
    int64_t m = 0;
    for (; m + kFloatColumns <= M; m += kFloatColumns)
      multiply_float_columns<kFloatColumns>(tile.weights, A + m * K + begin, K, length, sums + m * kFloatTileRows);
    for (; m < M; m++) multiply_float_columns<1>(tile.weights, A + m * K + begin, K, length, sums + m * kFloatTileRows);
  }
  for (int64_t m = 0; m < M; m++)
    for (int64_t r = 0; r < count; r++)
      product.output[m * weight.rows + first + r] =
          sums[m * kFloatTileRows + r] + (product.bias ? product.bias[first + r] : 0.0f);
}

}  // namespace llama3::avx512
