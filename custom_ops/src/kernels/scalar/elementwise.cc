#include <bit>
#include <cmath>

#include "kernels/elementwise_kernels.h"

namespace llama3::scalar {
#include "kernels/elementwise_loops.h"
}
