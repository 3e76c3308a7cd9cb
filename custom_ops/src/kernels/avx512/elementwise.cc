#include <bit>
#include <cmath>

#include "kernels/elementwise_kernels.h"

namespace llama3::avx512 {
#include "kernels/elementwise_loops.h"
}
