// The formats of a weight matrix in GGUF: the only list of them in C++. A row of the matrix consists of blocks of
// `block_weights` weights, each `block_bytes` bytes long, including the block's scales.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <string_view>
#include <utility>

namespace llama3 {

// X(Format without its k, ggml's name in lower case, block_weights, block_bytes)
// clang-format off
#define LLAMA3_FORMATS(X) \
  X(F32, "f32", 1, 4)            \
  X(F16, "f16", 1, 2)            \
  X(BF16, "bf16", 1, 2)          \
  X(Q4_0, "q4_0", 32, 18)        \
  X(Q4_1, "q4_1", 32, 20)        \
  X(Q5_0, "q5_0", 32, 22)        \
  X(Q5_1, "q5_1", 32, 24)        \
  X(Q8_0, "q8_0", 32, 34)        \
  X(Q2_K, "q2_k", 256, 84)       \
  X(Q3_K, "q3_k", 256, 110)      \
  X(Q4_K, "q4_k", 256, 144)      \
  X(Q5_K, "q5_k", 256, 176)      \
  X(Q6_K, "q6_k", 256, 210)      \
  X(IQ4_NL, "iq4_nl", 32, 18)    \
  X(IQ4_XS, "iq4_xs", 256, 136)  \
  X(MXFP4, "mxfp4", 32, 17)      \
  X(IQ1_S, "iq1_s", 256, 50)     \
  X(IQ1_M, "iq1_m", 256, 56)     \
  X(IQ2_XXS, "iq2_xxs", 256, 66) \
  X(IQ2_XS, "iq2_xs", 256, 74)   \
  X(IQ2_S, "iq2_s", 256, 82)     \
  X(IQ3_XXS, "iq3_xxs", 256, 98) \
  X(IQ3_S, "iq3_s", 256, 110)    \
  X(NVFP4, "nvfp4", 64, 36)      \
  X(TQ1_0, "tq1_0", 256, 54)     \
  X(TQ2_0, "tq2_0", 256, 66)
// clang-format on

#define LLAMA3_ENUMERATOR(id, name, block_weights, block_bytes) k##id,
enum class Format : uint8_t { LLAMA3_FORMATS(LLAMA3_ENUMERATOR) };
#undef LLAMA3_ENUMERATOR

struct FormatInfo {
  std::string_view name;  // ggml's, lower case
  Format format;
  int block_weights;
  int block_bytes;
};

#define LLAMA3_ROW(id, name, block_weights, block_bytes) {name, Format::k##id, block_weights, block_bytes},
inline constexpr auto kFormats = std::to_array<FormatInfo>({LLAMA3_FORMATS(LLAMA3_ROW)});
#undef LLAMA3_ROW
inline constexpr int kFormatCount = static_cast<int>(kFormats.size());

// Return the row of a name, or null if the name is unknown.
const FormatInfo* find_format(std::string_view name);
constexpr const FormatInfo& info(Format format) { return kFormats[static_cast<size_t>(format)]; }

// Return whether the weights are plain numbers, without blocks and scales. Their products always use float32
// activations.
constexpr bool is_float(Format format) { return format <= Format::kBF16; }

// Return an array with make.operator()<format>() for every format, at the format's index.
template <class Make>
constexpr auto for_each_format(Make make) {
  return [&]<size_t... i>(std::index_sequence<i...>) {
    return std::array{make.template operator()<static_cast<Format>(i)>()...};
  }(std::make_index_sequence<kFormatCount>());
}

}  // namespace llama3
