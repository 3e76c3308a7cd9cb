// The formats of a weight matrix, as GGUF stores them: the only list of them in C++. A row of the matrix is cut into
// blocks of `block_weights` weights, each `block_bytes` bytes long, with the block's scales among them.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <string_view>
#include <utility>

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

struct FormatInfo {
  std::string_view name;  // ggml's, lower case
  Format format;
  int block_weights;
  int block_bytes;
};

inline constexpr auto kFormats = std::to_array<FormatInfo>({
    {"f32", Format::kF32, 1, 4},
    {"f16", Format::kF16, 1, 2},
    {"bf16", Format::kBF16, 1, 2},
    {"q4_0", Format::kQ4_0, 32, 18},
    {"q4_1", Format::kQ4_1, 32, 20},
    {"q5_0", Format::kQ5_0, 32, 22},
    {"q5_1", Format::kQ5_1, 32, 24},
    {"q8_0", Format::kQ8_0, 32, 34},
    {"q2_k", Format::kQ2_K, 256, 84},
    {"q3_k", Format::kQ3_K, 256, 110},
    {"q4_k", Format::kQ4_K, 256, 144},
    {"q5_k", Format::kQ5_K, 256, 176},
    {"q6_k", Format::kQ6_K, 256, 210},
    {"iq4_nl", Format::kIQ4_NL, 32, 18},
    {"iq4_xs", Format::kIQ4_XS, 256, 136},
    {"mxfp4", Format::kMXFP4, 32, 17},
    {"iq1_s", Format::kIQ1_S, 256, 50},
    {"iq1_m", Format::kIQ1_M, 256, 56},
    {"iq2_xxs", Format::kIQ2_XXS, 256, 66},
    {"iq2_xs", Format::kIQ2_XS, 256, 74},
    {"iq2_s", Format::kIQ2_S, 256, 82},
    {"iq3_xxs", Format::kIQ3_XXS, 256, 98},
    {"iq3_s", Format::kIQ3_S, 256, 110},
    {"nvfp4", Format::kNVFP4, 64, 36},
    {"tq1_0", Format::kTQ1_0, 256, 54},
    {"tq2_0", Format::kTQ2_0, 256, 66},
});
inline constexpr int kFormatCount = static_cast<int>(kFormats.size());

// The row of a name, or null where no format has it.
const FormatInfo* find_format(std::string_view name);
constexpr const FormatInfo& info(Format format) { return kFormats[static_cast<size_t>(format)]; }

// Weights that are numbers by themselves, without blocks and scales: their products use float32 activations always.
constexpr bool is_float(Format format) { return format <= Format::kBF16; }

// An array with make.operator()<format>() for every format, at the format's index.
template <class Make>
constexpr auto for_each_format(Make make) {
  return [&]<size_t... i>(std::index_sequence<i...>) {
    return std::array{make.template operator()<static_cast<Format>(i)>()...};
  }(std::make_index_sequence<kFormatCount>());
}

}  // namespace llama3
