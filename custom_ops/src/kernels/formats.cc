#include "kernels/formats.h"

namespace llama3 {
namespace {

constexpr bool rows_in_order() {
  for (int i = 0; i < kFormatCount; i++)
    if (static_cast<int>(kFormats[i].format) != i) return false;
  return true;
}
static_assert(rows_in_order(), "info() takes a format as its row's index");

}  // namespace

const FormatInfo* find_format(std::string_view name) {
  for (const FormatInfo& row : kFormats)
    if (row.name == name) return &row;
  return nullptr;
}

}  // namespace llama3
