// Linears over weights in GGUF's formats: Y = A W^T (+ bias).
//
// BlockQuantizedMatMul has the signature that mobius writes in domain pkg.nxrt. BlockQuantizedMatMuls multiplies one
// input with several weights (q, k and v; gate and up), and so quantizes it once; their formats may differ.
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

// (A float [..., K], B0 .. Bn uint8 [N, blocks, bytes]) -> a float [..., N] for each.
// Attributes K, Ns, formats (names with commas between them), block_layout_version = 1, activations.
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
