#include "kernels/neon/floats.h"

#include <algorithm>
#include <cstring>

#include "kernels/activations.h"
#include "kernels/neon/intrinsics.h"
#include "kernels/neon/tiles.h"

namespace llama3::neon {
namespace {

constexpr int kFloatColumns = 8;  // with two registers of weight rows: 16 sums

// How four weights are loaded from an address, or one.
struct F32 {
  static constexpr int kBytes = 4;
  LLAMA3_INLINE float32x4_t load_4(const uint8_t* at) { return vreinterpretq_f32_u8(vld1q_u8(at)); }
  LLAMA3_INLINE float load_1(const uint8_t* at) { return load<float>(at); }
};
struct F16 {
  static constexpr int kBytes = 2;
  LLAMA3_INLINE float32x4_t load_4(const uint8_t* at) { return vcvt_f32_f16(vreinterpret_f16_u8(vld1_u8(at))); }
  LLAMA3_INLINE float load_1(const uint8_t* at) { return load_half(at); }
};
struct BF16 {
  static constexpr int kBytes = 2;
  LLAMA3_INLINE float32x4_t load_4(const uint8_t* at) {
    return vreinterpretq_f32_u32(vshll_n_u16(vreinterpret_u16_u8(vld1_u8(at)), 16));
  }
  LLAMA3_INLINE float load_1(const uint8_t* at) { return bfloat_to_float(load<uint16_t>(at)); }
};

template <class W>
LLAMA3_INLINE void to_floats(const uint8_t* row, int64_t count, float* out) {
  int64_t i = 0;
  for (; i + 4 <= count; i += 4) vst1q_f32(out + i, W::load_4(row + W::kBytes * i));
  for (; i < count; i++) out[i] = W::load_1(row + W::kBytes * i);
}

// One weight row times kColumns rows of A, each to output[c * stride].
template <class W, int kColumns>
LLAMA3_INLINE void dot_row(const uint8_t* row, int64_t K, const float* A, float bias, float* output, int64_t stride) {
  constexpr int kChains = 4;  // sums that do not wait for each other
  float32x4_t sums[kColumns][kChains];
  for (auto& chains : sums)
    for (float32x4_t& sum : chains) sum = vdupq_n_f32(0);
  int64_t k = 0;
  for (; k + 4 * kChains <= K; k += 4 * kChains)
#pragma GCC unroll 4
    for (int i = 0; i < kChains; i++) {
      const float32x4_t w = W::load_4(row + W::kBytes * (k + 4 * i));
#pragma GCC unroll 4
      for (int c = 0; c < kColumns; c++) sums[c][i] = vfmaq_f32(sums[c][i], w, vld1q_f32(A + c * K + k + 4 * i));
    }
  for (int c = 0; c < kColumns; c++) {
    float sum = vaddvq_f32(vaddq_f32(vaddq_f32(sums[c][0], sums[c][1]), vaddq_f32(sums[c][2], sums[c][3])));
    for (int64_t rest = k; rest < K; rest++)
      sum = __builtin_fmaf(W::load_1(row + W::kBytes * rest), A[c * K + rest], sum);
    output[c * stride] = sum + bias;
  }
}

template <class W>
LLAMA3_INLINE void dot_rows(const uint8_t* row, int64_t K, const float* A, int64_t M, float bias, float* output,
                            int64_t stride) {
  int64_t m = 0;
  for (; m + 4 <= M; m += 4) dot_row<W, 4>(row, K, A + m * K, bias, output + m * stride, stride);
  for (; m < M; m++) dot_row<W, 1>(row, K, A + m * K, bias, output + m * stride, stride);
}

// total[g][c] += the weights at k + kLane times lane kLane of a[c].
template <int kLane, int kColumns>
LLAMA3_INLINE void add_products(const float (*weights)[kTileRows], const float32x4_t (&a)[kColumns],
                                float32x4_t (&total)[2][kColumns]) {
#pragma GCC unroll 2
  for (int g = 0; g < 2; g++) {
    const float32x4_t w = vld1q_f32(weights[kLane] + 4 * g);
#pragma GCC unroll 8
    for (int c = 0; c < kColumns; c++) total[g][c] = vfmaq_laneq_f32(total[g][c], w, a[c], kLane);
  }
}

// Eight weight rows times the columns of A, over `count` weights.
template <int kColumns>
LLAMA3_INLINE void multiply_float_columns(const float (*weights)[kTileRows], const float* A, int64_t K, int count,
                                          float* sums) {
  float32x4_t total[2][kColumns];
#pragma GCC unroll 8
  for (int c = 0; c < kColumns; c++)
    for (int g = 0; g < 2; g++) total[g][c] = vld1q_f32(sums + c * kFloatTileRows + 4 * g);
  int k = 0;
  for (; k + 4 <= count; k += 4) {
    float32x4_t a[kColumns];
#pragma GCC unroll 8
    for (int c = 0; c < kColumns; c++) a[c] = vld1q_f32(A + c * K + k);
    add_products<0>(weights + k, a, total);
    add_products<1>(weights + k, a, total);
    add_products<2>(weights + k, a, total);
    add_products<3>(weights + k, a, total);
  }
  for (; k < count; k++) {
    float32x4_t a[kColumns];
#pragma GCC unroll 8
    for (int c = 0; c < kColumns; c++) a[c] = vdupq_n_f32(A[c * K + k]);
    add_products<0>(weights + k, a, total);
  }
#pragma GCC unroll 8
  for (int c = 0; c < kColumns; c++)
    for (int g = 0; g < 2; g++) vst1q_f32(sums + c * kFloatTileRows + 4 * g, total[g][c]);
}

struct alignas(64) FloatTile {
  float rows[4][kSuperBlock];
  float weights[kFloatTileRows / kTileRows][kSuperBlock][kTileRows];
};

}  // namespace

size_t float_row_scratch_bytes(int64_t K) { return static_cast<size_t>(super_blocks(K)) * kSuperBlock * sizeof(float); }

size_t float_tile_scratch_bytes(int64_t M) {
  return sizeof(FloatTile) + static_cast<size_t>(M) * kFloatTileRows * sizeof(float);
}

void dequantize_floats(Format format, const uint8_t* row, int64_t count, float* out) {
  if (format == Format::kF16)
    to_floats<F16>(row, count, out);
  else if (format == Format::kBF16)
    to_floats<BF16>(row, count, out);
  else
    to_floats<F32>(row, count, out);
}

void multiply_float_rows(const Product& product, Dequantize dequantize, int64_t first, int64_t count, const float* A,
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
      dequantize(weight.format, row, K, reinterpret_cast<float*>(scratch));
      dot_rows<F32>(reinterpret_cast<const uint8_t*>(scratch), K, A, M, bias, output, weight.rows);
    }
  }
}

void multiply_float_tile(const Product& product, Dequantize dequantize, int64_t first, int64_t count, const float* A,
                         int64_t M, std::byte* scratch) {
  auto& tile = *reinterpret_cast<FloatTile*>(scratch);
  auto* sums = reinterpret_cast<float*>(scratch + sizeof(FloatTile));
  const Matrix& weight = product.weight;
  const FormatInfo& layout = info(weight.format);
  const int64_t K = weight.cols;
  std::memset(sums, 0, static_cast<size_t>(M) * kFloatTileRows * sizeof(float));
  for (int64_t begin = 0; begin < K; begin += kSuperBlock) {
    const int length = static_cast<int>(std::min<int64_t>(kSuperBlock, K - begin));
    for (int r = 0; r < kFloatTileRows; r++) {
      const int64_t n = first + (r < count ? r : 0);  // past the end: any row
      const uint8_t* row = weight.data + static_cast<size_t>(n) * weight.row_bytes();
      dequantize(weight.format, row + begin / layout.block_weights * layout.block_bytes, length, tile.rows[r % 4]);
      if (r % 4 == 3)
        transpose_words(tile.rows, sizeof tile.rows[0], (length + 3) / 4 * 4,
                        tile.weights[r / kTileRows][0] + r % kTileRows - 3);
    }
    for (int g = 0; g < kFloatTileRows / kTileRows; g++) {
      const auto* weights = tile.weights[g];
      float* of_group = sums + g * kTileRows;
      int64_t m = 0;
      for (; m + kFloatColumns <= M; m += kFloatColumns)
        multiply_float_columns<kFloatColumns>(weights, A + m * K + begin, K, length, of_group + m * kFloatTileRows);
      for (; m < M; m++)
        multiply_float_columns<1>(weights, A + m * K + begin, K, length, of_group + m * kFloatTileRows);
    }
  }
  for (int64_t m = 0; m < M; m++)
    for (int64_t r = 0; r < count; r++)
      product.output[m * weight.rows + first + r] =
          sums[m * kFloatTileRows + r] + (product.bias ? product.bias[first + r] : 0.0f);
}

}  // namespace llama3::neon
