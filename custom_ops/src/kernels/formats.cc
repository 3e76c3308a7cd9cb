#include "kernels/formats.h"

namespace llama3 {

const FormatInfo* find_format(std::string_view name) {
  for (const FormatInfo& row : kFormats)
    if (row.name == name) return &row;
  return nullptr;
}

}  // namespace llama3
