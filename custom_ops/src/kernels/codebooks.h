// Codebooks of 16 values, indexed by a weight's four bits.
#pragma once

#include <cstdint>

namespace llama3 {

alignas(16) inline constexpr int8_t kCodebookIQ4[16] = {-127, -104, -83, -65, -49, -35, -22, -10,
                                                        1,    13,   25,  38,  53,  69,  89,  113};
// E2M1, doubled to make its halves whole. Scales are halved in return.
alignas(16) inline constexpr int8_t kCodebookE2M1[16] = {0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12};

}  // namespace llama3
