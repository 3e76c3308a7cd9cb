// The kernels of one format, built in the file of its family and called by the driver.
#pragma once

#include <algorithm>

#include "kernels/gemv.h"
#include "kernels/neon/gemm.h"
#include "kernels/neon/gemv.h"

namespace llama3::neon {

using FormatKernels = llama3::FormatKernels<PackedActivations, Tile, PackedActivations>;

// ---- From a format's struct to an unpacked row

template <class F, int kPart>
LLAMA3_INLINE void store_part(const uint8_t* block, UnpackedRow& out) {
  vst1q_s8_x4(out.q + 64 * kPart, F::template weights<kPart>(block));
}

template <class F>
void unpack_row(const uint8_t* blocks, int weights, UnpackedRow& out) {
  if constexpr (kIntegerScales<F>) {
    const ScaleCodes scales = F::scales(blocks);
    for (int i = 0; i < kSuperBlock / F::kSubBlock / 4; i++) vst1q_s32(out.codes + 4 * i, scales.codes[i]);
    out.factor = scales.factor;
    if constexpr (F::kMinima) {
      vst1q_s8(out.min_codes, scales.min_codes);
      out.min_factor = scales.min_factor;
    }
    store_part<F, 0>(blocks, out);
    store_part<F, 1>(blocks, out);
    store_part<F, 2>(blocks, out);
    store_part<F, 3>(blocks, out);
  } else {
    for (int j = 0; j < weights / 32; j++, blocks += kBlockBytes<F>) {
      const Block block = F::load(blocks);
      vst1q_s8(out.q + 32 * j, block.low);
      vst1q_s8(out.q + 32 * j + 16, block.high);
      out.scale[j] = block.scale;
      if constexpr (F::kMinima) out.min[j] = block.min;
    }
  }
}

// ---- From an unpacked row to float32

LLAMA3_INLINE void store_floats(const int8_t* q, float scale, float min, float* out) {
  int32x4_t words[4];
  widen(vld1q_s8(q), words);
#pragma GCC unroll 4
  for (int i = 0; i < 4; i++) vst1q_f32(out + 4 * i, vfmaq_n_f32(vdupq_n_f32(-min), vcvtq_f32_s32(words[i]), scale));
}

template <class F>
void dequantize_row(const uint8_t* row, int64_t count, float* out) {
  for (int64_t begin = 0; begin < count; begin += kSuperBlock) {
    const int weights = static_cast<int>(std::min<int64_t>(kSuperBlock, count - begin));
    UnpackedRow w;
    unpack_row<F>(row, weights, w);
    for (int i = 0; i < weights / 16; i++) {
      float scale, min = 0;
      if constexpr (kIntegerScales<F>) {
        const int j = 16 * i / F::kSubBlock;
        scale = w.factor * static_cast<float>(w.codes[j]);
        if constexpr (F::kMinima) min = w.min_factor * static_cast<float>(w.min_codes[j]);
      } else {
        scale = w.scale[i / 2];
        if constexpr (F::kMinima) min = w.min[i / 2];
      }
      store_floats(w.q + 16 * i, scale, min, out + begin + 16 * i);
    }
    row += super_block_bytes(F::kFormat);
  }
}

template <class F>
constexpr int sub_block() {
  if constexpr (kIntegerScales<F>) return F::kSubBlock;
  return 32;
}

template <class F>
FormatKernels kernels_of() {
  return {dequantize_row<F>,
          {gemv<GemvDot<F>, 1>, gemv<GemvDot<F>, 2>, gemv<GemvDot<F>, 3>, gemv<GemvDot<F>, 4>},
          pack_tile<unpack_row<F>>,
          gemm_kernels<GemmTraits{
              .integer_scales = kIntegerScales<F>, .sub_block = sub_block<F>(), .minima = F::kMinima}>(),
          sizeof(PackedActivations)};
}

// Each format defines this in the file of its family; if one is missing, the library does not link.
template <Format format>
FormatKernels kernels_for();
#define LLAMA3_KERNELS_FOR(id, ...) \
  template <>                       \
  FormatKernels kernels_for<Format::k##id>();
LLAMA3_FORMATS(LLAMA3_KERNELS_FOR)
#undef LLAMA3_KERNELS_FOR

}  // namespace llama3::neon
