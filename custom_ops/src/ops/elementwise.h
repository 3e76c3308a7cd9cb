// The steps between the linears of a layer, each as one op.
#pragma once

#include "ort_op.h"

namespace llama3 {

// (gate float [...], up likewise) -> silu(gate) * up, likewise.
class SwiGLU {
 public:
  static const OpSpec kSpec;
  explicit SwiGLU(const Node&) {}
  void compute(const Call& call) const;
};

// (x float [..., n], branch likewise, weight float [n]) -> RMS norm of x + branch, and x + branch itself, likewise.
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
