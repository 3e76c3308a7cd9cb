#include "kernels/avx512/floats.h"

#include "kernels/avx512/format_kernels.h"

namespace llama3::avx512 {

void dequantize_f32(const uint8_t* row, int64_t count, float* out) {
  __builtin_memcpy(out, row, static_cast<size_t>(count) * sizeof(float));
}

void dequantize_f16(const uint8_t* row, int64_t count, float* out) {
  for (int64_t i = 0; i < count; i += 16) {
    const auto valid = static_cast<__mmask16>(count - i >= 16 ? 0xffff : (1 << (count - i)) - 1);
    _mm512_storeu_ps(out + i, _mm512_cvtph_ps(_mm256_maskz_loadu_epi16(valid, row + 2 * i)));
  }
}

void dequantize_bf16(const uint8_t* row, int64_t count, float* out) {
  for (int64_t i = 0; i < count; i += 16) {
    const auto valid = static_cast<__mmask16>(count - i >= 16 ? 0xffff : (1 << (count - i)) - 1);
    const __m512i words = _mm512_cvtepu16_epi32(_mm256_maskz_loadu_epi16(valid, row + 2 * i));
    _mm512_storeu_ps(out + i, _mm512_castsi512_ps(_mm512_slli_epi32(words, 16)));
  }
}

namespace {

constexpr int64_t kPiece = 1024;  // weights of a row that are dequantized at once: a multiple of every block
constexpr int kFloatColumns = 8;  // with two registers of weight rows: 16 sums

const uint8_t* weight_at(const Matrix& weight, int64_t n, int64_t k) {
  const FormatInfo& layout = info(weight.format);
  return weight.data + static_cast<size_t>(n) * weight.row_bytes() +
         static_cast<size_t>(k / layout.block_weights * layout.block_bytes);
}

// The sum over count weights with one row of A, spread over the lanes and added to four sums.
LLAMA3_INLINE void dot_piece(const float* weights, const float* a, int64_t count, __m512 (&sums)[4]) {
  int64_t k = 0;
  for (; k + 64 <= count; k += 64)
#pragma GCC unroll 4
    for (int i = 0; i < 4; i++)
      sums[i] = _mm512_fmadd_ps(_mm512_loadu_ps(weights + k + 16 * i), _mm512_loadu_ps(a + k + 16 * i), sums[i]);
  for (; k < count; k += 16) {
    const auto valid = static_cast<__mmask16>(count - k >= 16 ? 0xffff : (1 << (count - k)) - 1);
    sums[0] = _mm512_fmadd_ps(_mm512_maskz_loadu_ps(valid, weights + k), _mm512_maskz_loadu_ps(valid, a + k), sums[0]);
  }
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

size_t float_scratch_bytes(int64_t columns) {
  return sizeof(FloatTile) + static_cast<size_t>(columns) * kFloatTileRows * sizeof(float);
}

void multiply_float_rows(const Product& product, Dequantize* dequantize, int64_t first, int64_t count, const float* A,
                         int64_t M) {
  constexpr int64_t kMaxRows = 16;
  const Matrix& weight = product.weight;
  alignas(64) float piece[kPiece];
  for (int64_t n = first; n < first + count; n++)
    for (int64_t begin_row = 0; begin_row < M; begin_row += kMaxRows) {
      const int64_t rows = M - begin_row < kMaxRows ? M - begin_row : kMaxRows;
      __m512 sums[kMaxRows][4] = {};
      for (int64_t k = 0; k < weight.cols; k += kPiece) {
        const int64_t length = weight.cols - k < kPiece ? weight.cols - k : kPiece;
        dequantize(weight_at(weight, n, k), length, piece);
        for (int64_t m = 0; m < rows; m++) dot_piece(piece, A + (begin_row + m) * weight.cols + k, length, sums[m]);
      }
      for (int64_t m = 0; m < rows; m++) {
        const __m512 sum = _mm512_add_ps(_mm512_add_ps(sums[m][0], sums[m][1]), _mm512_add_ps(sums[m][2], sums[m][3]));
        product.output[(begin_row + m) * weight.rows + n] =
            _mm512_reduce_add_ps(sum) + (product.bias ? product.bias[n] : 0.0f);
      }
    }
}

void multiply_float_tile(const Product& product, Dequantize* dequantize, int64_t first, int64_t count, const float* A,
                         int64_t M, std::byte* scratch) {
  auto& tile = *reinterpret_cast<FloatTile*>(scratch);
  auto* sums = reinterpret_cast<float*>(scratch + sizeof(FloatTile));
  const Matrix& weight = product.weight;
  const int64_t K = weight.cols;
  __builtin_memset(sums, 0, static_cast<size_t>(M) * kFloatTileRows * sizeof(float));
  for (int64_t begin = 0; begin < K; begin += kSuperBlock) {
    const int length = static_cast<int>(K - begin < kSuperBlock ? K - begin : kSuperBlock);
    for (int group = 0; group < 2; group++) {
      for (int r = 0; r < 16; r++) {
        const int64_t n = 16 * group + r < count ? first + 16 * group + r : first;  // past the end: any row
        dequantize(weight_at(weight, n, begin), length, tile.rows[r]);
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
    for (; m < M; m++)
      multiply_float_columns<1>(tile.weights, A + m * K + begin, K, length, sums + m * kFloatTileRows);
  }
  for (int64_t m = 0; m < M; m++)
    for (int64_t r = 0; r < count; r++)
      product.output[m * weight.rows + first + r] =
          sums[m * kFloatTileRows + r] + (product.bias ? product.bias[first + r] : 0.0f);
}

}  // namespace llama3::avx512
