#include "ops/weight.h"

#include <string>

namespace llama3 {

Format format_by_name(std::string_view name) {
  if (const FormatInfo* found = find_format(name)) return found->format;
  std::string known;
  for (int i = 0; i < kFormatCount; i++) known.append(i ? ", " : "").append(info(static_cast<Format>(i)).name);
  throw Failure{"unknown format '" + std::string(name) + "'; use one of " + known};
}

Weight::Weight(const Node& node, size_t input, Format format, std::optional<int64_t> N, int64_t K)
    : input_(input), format_(format), N_(N), K_(K) {
  const int64_t version = node.int_attribute("block_layout_version", 1);
  if (version != 1) throw Failure{"block_layout_version is " + std::to_string(version) + "; only 1 is supported"};
  const FormatInfo& layout = info(format);
  if (N && *N < 1) throw Failure{"N is " + std::to_string(*N) + "; it must be at least 1"};
  if (K < 1 || K % layout.block_weights != 0) {
    throw Failure{"K is " + std::to_string(K) + "; it must be a positive multiple of " + std::string(layout.name) +
                  "'s block size, " + std::to_string(layout.block_weights)};
  }
  if (const auto tensor = node.constant(input)) constant_ = checked(*tensor);
}

Matrix Weight::matrix(const Call& call) const { return constant_ ? *constant_ : checked(call.input(input_)); }

Matrix Weight::checked(const Tensor& tensor) const {
  const FormatInfo& layout = info(format_);
  const int64_t rows = N_ ? *N_ : tensor.dims.rank() > 0 ? tensor.dims[0] : -1;
  const Dims expected{rows, K_ / layout.block_weights, layout.block_bytes};
  if (rows >= 1 && tensor.dims == expected) return {tensor.as<uint8_t>(), format_, rows, K_};
  throw Failure{"input " + std::to_string(input_) + " is " + tensor.dims.text() + ", but a matrix of " +
                std::string(layout.name) + " with K = " + std::to_string(K_) + " is " + expected.text()};
}

}  // namespace llama3
