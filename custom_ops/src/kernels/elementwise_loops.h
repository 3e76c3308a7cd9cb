// The kernels of elementwise.h as loops that compilers vectorize. Each instruction set's elementwise.cc includes them
// in its namespace and compiles them with its flags. Products and sums are not contracted, so all sets round alike.

namespace {

constexpr int64_t kLanes = 16;  // independent sums: as many as the widest register holds

// Compute e^x to 1.5 units in the last place if it is a normal number. Beyond that range, return the value at its end.
float exponential(float x) {
  x = x > -87.0f ? x : -87.0f;
  x = x < 88.0f ? x : 88.0f;
  const float n = (x * 0x1.715476p0f + 0x1.8p23f) - 0x1.8p23f;  // x / ln 2, to the nearest integer
  const float r = (x - n * 0x1.63p-1f) + n * 0x1.bd0106p-13f;   // x - n ln 2; the first product is exact
  // (e^r - 1 - r) / r^2, fitted on |r| <= ln 2 / 2
  const float q = (((0x1.6d43bap-10f * r + 0x1.120beep-7f) * r + 0x1.5554e8p-5f) * r + 0x1.5554dcp-3f) * r + 0.5f;
  return (q * (r * r) + r + 1.0f) * std::bit_cast<float>((static_cast<int32_t>(n) + 127) << 23);
}

void swiglu(const float* gate, const float* up, int64_t count, float* y) {
  for (int64_t i = 0; i < count; i++) y[i] = gate[i] / (1.0f + exponential(-gate[i])) * up[i];
}

void add_rms_norm_row(const AddRMSNormCall& call, int64_t row) {
  const int64_t cols = call.cols;
  const float *x = call.x + row * cols, *branch = call.branch + row * cols;
  float *normed = call.normed + row * cols, *sum = call.sum + row * cols;
  for (int64_t i = 0; i < cols; i++) sum[i] = x[i] + branch[i];
  float squares[kLanes] = {};
  int64_t i = 0;
  for (; i + kLanes <= cols; i += kLanes)
    for (int64_t lane = 0; lane < kLanes; lane++) squares[lane] += sum[i + lane] * sum[i + lane];
  for (; i < cols; i++) squares[i % kLanes] += sum[i] * sum[i];
  float total = 0;
  for (const float square : squares) total += square;
  const float factor = 1.0f / std::sqrt(total / static_cast<float>(cols) + call.epsilon);
  for (i = 0; i < cols; i++) normed[i] = sum[i] * factor * call.weight[i];
}

}  // namespace

const ElementwiseKernels kElementwise = {swiglu, add_rms_norm_row};
