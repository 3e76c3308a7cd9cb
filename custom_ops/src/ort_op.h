// Turns a class into an op of ONNX Runtime. The class has
//   static const OpSpec kSpec
//   Op(const Node&)                              called when a session loads; checks attributes and constants
//   void compute(const Call&) const              const, because several threads may run a session at once
//   static void infer_shapes(const ShapeCall&)   optional
// and throws a Failure if something is wrong.
#pragma once

#include <exception>
#include <span>
#include <string>
#include <utility>

#include "ops/host.h"
#include "ort_abi.h"

namespace llama3 {

struct OpSpec {
  const char* name;
  std::span<const ort::Element> inputs;
  std::span<const ort::Element> outputs;
  size_t required_inputs;  // the ones after them may be omitted
  bool variadic = false;   // the last input and the last output may each be several
};

struct Op : ort::OpTable {
  const OpSpec* spec;
  const Host* host;
};

namespace op_detail {

inline const Op& op_of(const ort::OpTable* table) { return *static_cast<const Op*>(table); }

template <class Kernel>
struct Instance {
  const Host& host;
  Kernel kernel;
};

// Run `body` and turn an exception into a status, with `place` before its message.
template <class Body>
ort::Status* guarded(const ort::Api* api, Body body, const std::string& place = {}) noexcept {
  const auto status = [&](ort::Error code, const char* message) {
    return ort::create_status(api, code, (place + message).c_str());
  };
  try {
    body();
    return nullptr;
  } catch (const Failure& failure) {
    return status(ort::Error::kInvalidArgument, failure.message.c_str());
  } catch (const std::exception& error) {
    return status(ort::Error::kFail, error.what());
  } catch (...) {  // from a C++ library other than ours
    return status(ort::Error::kFail, "failed; there may not be enough memory");
  }
}

template <class Kernel>
ort::Status* create(const ort::OpTable* table, const ort::Api*, const ort::KernelInfo* info, void** result) {
  const Op& op = op_of(table);
  std::string place = std::string(op.spec->name) + ": ";
  return guarded(
      op.host->api,
      [&] {
        const Node node(*op.host, info);
        place = std::string(op.spec->name) + " '" + node.name() + "': ";
        *result = new Instance<Kernel>{*op.host, Kernel(node)};
      },
      place);
}

template <class Kernel>
ort::Status* compute(void* data, ort::KernelContext* context) {
  const auto& instance = *static_cast<const Instance<Kernel>*>(data);
  return guarded(instance.host.api, [&] { instance.kernel.compute(Call(instance.host, context)); });
}

template <class Kernel>
ort::Status* infer_shapes(const ort::OpTable* table, ort::ShapeContext* context) {
  const Host& host = *op_of(table).host;
  // The host ignores errors here and leaks their status.
  if (ort::Status* status = guarded(host.api, [&] { Kernel::infer_shapes(ShapeCall(host, context)); })) {
    ort::release_status(host.api, status);
  }
  return nullptr;
}

inline ort::Arity arity(size_t index, size_t count, size_t required, bool variadic) {
  if (variadic && index + 1 == count) return ort::Arity::kVariadic;
  return index < required ? ort::Arity::kRequired : ort::Arity::kOptional;
}

}  // namespace op_detail

template <class Kernel>
Op make_op(const Host& host) {
  using op_detail::op_of;
  using ort::OpTable;
  Op op{};
  op.spec = &Kernel::kSpec;
  op.host = &host;
  op.version = ort::kApiVersion;
  op.name = [](const OpTable* table) { return op_of(table).spec->name; };
  op.provider = [](const OpTable*) -> const char* { return nullptr; };
  op.input_types = [](const OpTable* table) { return op_of(table).spec->inputs.size(); };
  op.input_type = [](const OpTable* table, size_t index) { return op_of(table).spec->inputs[index]; };
  op.input_arity = [](const OpTable* table, size_t index) {
    const OpSpec& spec = *op_of(table).spec;
    return op_detail::arity(index, spec.inputs.size(), spec.required_inputs, spec.variadic);
  };
  op.input_memory = [](const OpTable*, size_t) { return ort::MemoryType::kDefault; };
  op.output_types = [](const OpTable* table) { return op_of(table).spec->outputs.size(); };
  op.output_type = [](const OpTable* table, size_t index) { return op_of(table).spec->outputs[index]; };
  op.output_arity = [](const OpTable* table, size_t index) {
    const OpSpec& spec = *op_of(table).spec;
    return op_detail::arity(index, spec.outputs.size(), spec.outputs.size(), spec.variadic);
  };
  op.variadic_input_min = op.variadic_output_min = [](const OpTable*) { return 1; };
  op.variadic_input_homogeneous = op.variadic_output_homogeneous = [](const OpTable*) { return 1; };
  op.create_v2 = op_detail::create<Kernel>;
  op.compute_v2 = op_detail::compute<Kernel>;
  op.destroy = [](void* kernel) { delete static_cast<op_detail::Instance<Kernel>*>(kernel); };
  op.since = [](const OpTable*) { return 1; };
  if constexpr (requires { &Kernel::infer_shapes; }) {
    // onnxruntime 1.23 crashes if an op has shape inference and an optional input is named "".
    if (host.version > 23) op.infer_shapes = op_detail::infer_shapes<Kernel>;
  }
  return op;
}

}  // namespace llama3
