// A weight matrix as an input of an op: uint8 [N, blocks of a row, bytes of a block], in one of GGUF's formats. Its
// shape is checked against N, K and the format before anything reads it: once at load if the weight is a constant, as
// is usual, and otherwise at each call.
#pragma once

#include <optional>
#include <string_view>

#include "kernels/matmul.h"
#include "ops/host.h"

namespace llama3 {

// Return the format that an attribute names.
Format format_by_name(std::string_view name);

class Weight {
 public:
  // Without N, accept any number of rows.
  Weight(const Node& node, size_t input, Format format, std::optional<int64_t> N, int64_t K);
  Matrix matrix(const Call& call) const;
  int64_t cols() const { return K_; }

 private:
  Matrix checked(const Tensor& tensor) const;

  size_t input_;
  Format format_;
  std::optional<int64_t> N_;
  int64_t K_;
  std::optional<Matrix> constant_;
};

}  // namespace llama3
