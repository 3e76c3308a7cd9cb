#include "ops/block_quantized_gather.h"

#include <string>

namespace llama3 {
namespace {

constexpr ort::Element kInputs[] = {ort::Element::kUint8, ort::Element::kInt64};
constexpr ort::Element kOutputs[] = {ort::Element::kFloat};

}  // namespace

const OpSpec BlockQuantizedGather::kSpec = {"BlockQuantizedGather", kInputs, kOutputs, 2};

BlockQuantizedGather::BlockQuantizedGather(const Node& node)
    : weight_(node, 0, format_by_name(node.string_attribute("format")), std::nullopt, node.int_attribute("K")) {}

void BlockQuantizedGather::compute(const Call& call) const {
  const Matrix weight = weight_.matrix(call);
  const Tensor ids = call.input(1);
  const int64_t count = ids.dims.product(ids.dims.rank());
  for (int64_t i = 0; i < count; i++) {
    const int64_t id = ids.as<int64_t>()[i];
    if (id < 0 || id >= weight.rows) {
      throw Failure{"id " + std::to_string(id) + " is not one of the rows 0 to " + std::to_string(weight.rows - 1)};
    }
  }
  Dims dims = ids.dims;
  dims.append(weight.cols);
  auto* output = call.output<float>(0, dims);
  HostPool pool(call);
  dequantize_rows(weight, ids.as<int64_t>(), count, output, pool);
}

void BlockQuantizedGather::infer_shapes(const ShapeCall& call) { call.set_output(1, 0, call.int_attribute("K")); }

}  // namespace llama3
