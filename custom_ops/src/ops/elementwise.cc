#include "ops/elementwise.h"

#include "kernels/elementwise.h"

namespace llama3 {
namespace {

constexpr ort::Element kFloats[] = {ort::Element::kFloat, ort::Element::kFloat, ort::Element::kFloat};

void check_same_dims(const Tensor& a, const Tensor& b) {
  if (a.dims != b.dims) throw Failure{"input 0 is " + a.dims.text() + ", but input 1 is " + b.dims.text()};
}

}  // namespace

const OpSpec SwiGLU::kSpec = {"SwiGLU", std::span(kFloats).first(2), std::span(kFloats).first(1), 2};

void SwiGLU::compute(const Call& call) const {
  const Tensor gate = call.input(0), up = call.input(1);
  check_same_dims(gate, up);
  auto* y = call.output<float>(0, gate.dims);
  HostPool pool(call);
  swiglu(gate.as<float>(), up.as<float>(), gate.dims.product(gate.dims.rank()), y, pool);
}

const OpSpec AddRMSNorm::kSpec = {"AddRMSNorm", kFloats, std::span(kFloats).first(2), 3};

AddRMSNorm::AddRMSNorm(const Node& node) {
  const std::optional<float> epsilon = node.float_attribute("epsilon");
  if (!epsilon) throw Failure{"attribute epsilon is missing or is not a float"};
  epsilon_ = *epsilon;
}

void AddRMSNorm::compute(const Call& call) const {
  const Tensor x = call.input(0), branch = call.input(1), weight = call.input(2);
  check_same_dims(x, branch);
  if (x.dims.rank() == 0 || weight.dims != Dims{x.dims.last()}) {
    throw Failure{"the weight is " + weight.dims.text() + ", but the input is " + x.dims.text()};
  }
  auto* normed = call.output<float>(0, x.dims);
  auto* sum = call.output<float>(1, x.dims);
  HostPool pool(call);
  add_rms_norm({.x = x.as<float>(),
                .branch = branch.as<float>(),
                .weight = weight.as<float>(),
                .epsilon = epsilon_,
                .rows = x.dims.product(x.dims.rank() - 1),
                .cols = x.dims.last(),
                .normed = normed,
                .sum = sum},
               pool);
}

}  // namespace llama3
