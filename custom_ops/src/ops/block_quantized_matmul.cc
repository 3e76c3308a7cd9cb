#include "ops/block_quantized_matmul.h"

#include <array>
#include <string>
#include <string_view>

namespace llama3 {
namespace {

constexpr ort::Element kInputs[] = {ort::Element::kFloat, ort::Element::kUint8, ort::Element::kFloat};
constexpr ort::Element kOutputs[] = {ort::Element::kFloat};

Activations activations_of(const Node& node) {
  const std::string name = node.string_attribute("activations", "int8");
  if (name == "int8") return Activations::kInt8;
  if (name == "int8x2") return Activations::kInt8x2;
  if (name == "float32") return Activations::kFloat32;
  throw Failure{"activations is '" + name + "'; use int8, int8x2 or float32"};
}

std::vector<std::string_view> split(std::string_view text) {
  std::vector<std::string_view> names;
  for (size_t begin = 0; begin <= text.size();) {
    const size_t end = std::min(text.find(',', begin), text.size());
    names.push_back(text.substr(begin, end - begin));
    begin = end + 1;
  }
  return names;
}

// Check that the last dimension of input A is K: at load if it is declared, and at each call.
void check_last_dim(const Dims& dims, int64_t K) {
  if (dims.rank() == 0 || dims.last() != K) {
    throw Failure{"input 0 is " + dims.text() + ", but K is " + std::to_string(K)};
  }
}

void check_declared(const Node& node, int64_t K) {
  const Dims dims = node.declared_dims(0);
  if (dims.rank() > 0 && dims.last() >= 0) check_last_dim(dims, K);
}

Dims output_dims(Dims dims, int64_t N) {
  dims.last() = N;
  return dims;
}

void multiply(const Call& call, const ScratchSource& source, const Tensor& A, std::span<const Product> products,
              Activations activations) {
  const int64_t M = A.dims.product(A.dims.rank() - 1);
  if (M == 0) return;
  HostPool pool(call);
  const Scratch scratch(source, matmul_scratch_bytes(products, M, activations, pool.width()));
  matmul(products, A.as<float>(), M, activations, pool, scratch.data());
}

}  // namespace

const OpSpec BlockQuantizedMatMul::kSpec = {"BlockQuantizedMatMul", kInputs, kOutputs, 2};

BlockQuantizedMatMul::BlockQuantizedMatMul(const Node& node)
    : activations_(activations_of(node)),
      weight_(node, 1, format_by_name(node.string_attribute("format")), node.int_attribute("N"),
              node.int_attribute("K")),
      scratch_(node) {
  check_declared(node, weight_.cols());
}

void BlockQuantizedMatMul::compute(const Call& call) const {
  const Tensor A = call.input(0);
  check_last_dim(A.dims, weight_.cols());
  const Matrix weight = weight_.matrix(call);
  const float* bias = nullptr;
  if (const auto tensor = call.optional_input(2)) {
    if (tensor->dims != Dims{weight.rows}) {
      throw Failure{"the bias is " + tensor->dims.text() + ", but N is " + std::to_string(weight.rows)};
    }
    bias = tensor->as<float>();
  }
  const Product product{weight, bias, call.output<float>(0, output_dims(A.dims, weight.rows))};
  multiply(call, scratch_, A, {&product, 1}, activations_);
}

void BlockQuantizedMatMul::infer_shapes(const ShapeCall& call) { call.set_output(0, 1, call.int_attribute("N")); }

const OpSpec BlockQuantizedMatMuls::kSpec = {"BlockQuantizedMatMuls", std::span(kInputs).first(2), kOutputs, 2, true};

BlockQuantizedMatMuls::BlockQuantizedMatMuls(const Node& node)
    : activations_(activations_of(node)), K_(node.int_attribute("K")), scratch_(node) {
  const std::string formats = node.string_attribute("formats");
  const std::vector<std::string_view> names = split(formats);
  const std::vector<int64_t> Ns = node.ints_attribute("Ns");
  const size_t count = Ns.size();
  if (names.size() != count || node.input_count() != count + 1 || node.output_count() != count) {
    throw Failure{"Ns has " + std::to_string(count) + " values and formats has " + std::to_string(names.size()) +
                  " names, but there are " + std::to_string(node.input_count() - 1) + " weights and " +
                  std::to_string(node.output_count()) + " outputs"};
  }
  if (count > kMaxProducts) {
    throw Failure{"the node has " + std::to_string(count) + " weights; the limit is " + std::to_string(kMaxProducts)};
  }
  for (size_t i = 0; i < count; i++) weights_.emplace_back(node, i + 1, format_by_name(names[i]), Ns[i], K_);
  check_declared(node, K_);
}

void BlockQuantizedMatMuls::compute(const Call& call) const {
  const Tensor A = call.input(0);
  check_last_dim(A.dims, K_);
  std::array<Product, kMaxProducts> products;
  for (size_t i = 0; i < weights_.size(); i++) {
    const Matrix weight = weights_[i].matrix(call);
    products[i] = {weight, nullptr, call.output<float>(i, output_dims(A.dims, weight.rows))};
  }
  multiply(call, scratch_, A, std::span(products).first(weights_.size()), activations_);
}

}  // namespace llama3
