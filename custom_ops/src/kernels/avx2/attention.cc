// Attention with AVX2, FMA and F16C.
#include "kernels/attention_kernels.h"
#include "kernels/attention_rows.h"
#include "kernels/attention_steps.h"
#include "kernels/attention_tiles.h"
#include "kernels/avx2/simd.h"

namespace llama3::avx2 {

const AttentionKernels kAttention[2] = {
    {prepare<Simd, uint16_t>, attend_rows<Simd, uint16_t>, attend_tiles<FloatProducts<Simd>, uint16_t>, merge},
    {prepare<Simd, float>, attend_rows<Simd, float>, attend_tiles<FloatProducts<Simd>, float>, merge},
};

}  // namespace llama3::avx2
