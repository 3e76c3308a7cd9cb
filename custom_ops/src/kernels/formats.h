// The formats of a weight matrix, as GGUF stores them: one row of the table a format. A row of the matrix is cut into
// blocks of `block_weights` weights, each `block_bytes` bytes long, with the block's scales among them.
#pragma once

#include <cstdint>
#include <string_view>

namespace llama3 {

enum class Format : uint8_t {
  kF32,
  kF16,
  kBF16,
  kQ4_0,
  kQ4_1,
  kQ5_0,
  kQ5_1,
  kQ8_0,
  kQ2_K,
  kQ3_K,
  kQ4_K,
  kQ5_K,
  kQ6_K,
  kIQ4_NL,
  kIQ4_XS,
  kMXFP4,
  kIQ1_S,
  kIQ1_M,
  kIQ2_XXS,
  kIQ2_XS,
  kIQ2_S,
  kIQ3_XXS,
  kIQ3_S,
  kNVFP4,
  kTQ1_0,
  kTQ2_0,
};
inline constexpr int kFormatCount = static_cast<int>(Format::kTQ2_0) + 1;

struct FormatInfo {
  std::string_view name;  // ggml's, lower case
  Format format;
  int block_weights;
  int block_bytes;
};

// The row of a name, or null where no format has it.
const FormatInfo* find_format(std::string_view name);
const FormatInfo& info(Format format);

// Weights that are numbers by themselves, without blocks and scales: their products use float32 activations always.
constexpr bool is_float(Format format) { return format <= Format::kBF16; }

}  // namespace llama3
