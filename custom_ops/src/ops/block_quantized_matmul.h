// Linear layers with weights in GGUF's formats: Y = A W^T (+ bias).
//
// BlockQuantizedMatMul has the signature that mobius writes in domain pkg.nxrt. BlockQuantizedMatMuls multiplies one
// input by several weights (q, k and v; gate and up), so the input is quantized once. The formats may differ.
#pragma once

#include <optional>
#include <vector>

#include "ops/weight.h"
#include "ort_op.h"

namespace llama3 {

// (A float [..., K], B uint8 [N, blocks, bytes], bias? float [N]) -> float [..., N].
// Attributes K, N, format, block_layout_version = 1, activations = "int8", "int8x2" or "float32".
class BlockQuantizedMatMul {
 public:
  static const OpSpec kSpec;
  explicit BlockQuantizedMatMul(const Node& node);
  void compute(const Call& call) const;
  static void infer_shapes(const ShapeCall& call);

 private:
  Activations activations_;
  Weight weight_;
  ScratchSource scratch_;
};

// (A float [..., K], B0 .. Bn uint8 [N, blocks, bytes]) -> one float [..., N] per B.
// Attributes K, Ns, formats (names separated by commas), block_layout_version = 1, activations.
class BlockQuantizedMatMuls {
 public:
  static const OpSpec kSpec;
  explicit BlockQuantizedMatMuls(const Node& node);
  void compute(const Call& call) const;

 private:
  Activations activations_;
  int64_t K_;
  std::vector<Weight> weights_;
  ScratchSource scratch_;
};

}  // namespace llama3
