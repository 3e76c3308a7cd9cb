// Attention with NEON (aarch64).
#include "kernels/attention_kernels.h"
#include "kernels/attention_rows.h"
#include "kernels/attention_steps.h"
#include "kernels/attention_tiles.h"
#include "kernels/neon/simd.h"

namespace llama3::neon {

const AttentionKernels kAttention[2] = {
    {prepare<Simd, uint16_t>, attend_rows<Simd, uint16_t>, attend_tiles<FloatProducts<Simd>, uint16_t>, merge},
    {prepare<Simd, float>, attend_rows<Simd, float>, attend_tiles<FloatProducts<Simd>, float>, merge},
};

}  // namespace llama3::neon
