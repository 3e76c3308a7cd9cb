// The steps between a layer's matrix products, each as one op.
#pragma once

#include "ort_op.h"

namespace llama3 {

// (gate and up float [...]) -> silu(gate) * up, float [...].
class SwiGLU {
 public:
  static const OpSpec kSpec;
  explicit SwiGLU(const Node&) {}
  void compute(const Call& call) const;
};

// (x and branch float [..., n], weight float [n]) -> the RMS norm of x + branch, and x + branch, both float [..., n].
// Attribute epsilon.
class AddRMSNorm {
 public:
  static const OpSpec kSpec;
  explicit AddRMSNorm(const Node& node);
  void compute(const Call& call) const;

 private:
  float epsilon_;
};

}  // namespace llama3
