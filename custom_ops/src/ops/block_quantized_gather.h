// Rows of a matrix in one of GGUF's formats as float32: token embeddings.
#pragma once

#include "ops/weight.h"
#include "ort_op.h"

namespace llama3 {

// (B uint8 [N, blocks, bytes], ids int64 [...]) -> float [..., K]. Attributes K, format, block_layout_version = 1.
// An id is 0 to N - 1. A negative id does not count from the end, because no token has one.
class BlockQuantizedGather {
 public:
  static const OpSpec kSpec;
  explicit BlockQuantizedGather(const Node& node);
  void compute(const Call& call) const;
  static void infer_shapes(const ShapeCall& call);

 private:
  Weight weight_;
};

}  // namespace llama3
