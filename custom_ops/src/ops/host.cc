#include "ops/host.h"

#include <algorithm>
#include <atomic>
#include <thread>

namespace llama3 {
namespace {

// A host object that this library must release.
template <class Object>
struct Owned {
  const ort::Api* api;
  ort::Slot<void(Object*)> release;
  Object* object = nullptr;
  ~Owned() {
    if (object) release(api, object);
  }
};

Dims dims_of(const ort::Api* api, const ort::ShapeInfo* shape) {
  size_t rank = 0;
  check(api, ort::dimension_count(api, shape, &rank));
  std::vector<int64_t> values(rank);
  check(api, ort::dimensions(api, shape, values.data(), rank));
  return Dims(values);
}

Tensor tensor_of(const Host& host, const ort::Value* value) {
  Tensor tensor;
  if (host.version >= ort::kBorrowedShapeApi) {
    ort::Element type{};
    const int64_t* values = nullptr;
    size_t rank = 0;
    check(host.api, ort::borrowed_shape(host.api, value, &type, &values, &rank));
    tensor.dims = Dims(std::span(values, rank));
  } else {
    Owned<ort::ShapeInfo> shape{host.api, ort::release_shape};
    check(host.api, ort::shape_of(host.api, value, &shape.object));
    tensor.dims = dims_of(host.api, shape.object);
  }
  // The host has no function for read-only data.
  check(host.api, ort::mutable_data(host.api, const_cast<ort::Value*>(value), &tensor.data));
  return tensor;
}

// Return whether the host found the attribute with the requested type.
bool found(const Host& host, ort::Status* status) {
  if (status) ort::release_status(host.api, status);
  return !status;
}

[[noreturn]] void missing(const char* attribute, const char* kind) {
  throw Failure{std::string("attribute ") + attribute + " is missing or is not " + kind};
}

}  // namespace

void check(const ort::Api* api, ort::Status* status) {
  if (!status) return;
  Failure failure{ort::status_message(api, status)};
  ort::release_status(api, status);
  throw failure;
}

Dims::Dims(std::span<const int64_t> dims) : rank_(dims.size()) {
  if (rank_ > kMaxRank) throw Failure{"a tensor has " + std::to_string(rank_) + " dimensions; at most 8 are supported"};
  std::copy(dims.begin(), dims.end(), values_.begin());
}

void Dims::append(int64_t dim) {
  if (rank_ == kMaxRank) throw Failure{"the output would have more than 8 dimensions"};
  values_[rank_++] = dim;
}

int64_t Dims::product(size_t axes) const {
  const auto dims = span().first(axes);
  if (std::ranges::find(dims, 0) != dims.end()) return 0;  // early, because the product of the others may overflow
  int64_t result = 1;
  for (const int64_t dim : dims) result *= dim;
  return result;
}

std::string Dims::text() const {
  std::string text = "[";
  for (size_t i = 0; i < rank_; i++) text += (i ? ", " : "") + (values_[i] < 0 ? "?" : std::to_string(values_[i]));
  return text + "]";
}

bool Dims::operator==(const Dims& other) const { return std::ranges::equal(span(), other.span()); }

std::string Node::name() const {
  size_t size = 0;
  check(host_.api, ort::info_node_name(host_.api, info_, nullptr, &size));
  std::string name(size, '\0');
  check(host_.api, ort::info_node_name(host_.api, info_, name.data(), &size));
  name.resize(size - 1);
  return name;
}

size_t Node::input_count() const {
  size_t count = 0;
  check(host_.api, ort::info_input_count(host_.api, info_, &count));
  return count;
}

size_t Node::output_count() const {
  size_t count = 0;
  check(host_.api, ort::info_output_count(host_.api, info_, &count));
  return count;
}

int64_t Node::int_attribute(const char* name) const {
  int64_t value = 0;
  if (!found(host_, ort::attribute_int(host_.api, info_, name, &value))) missing(name, "an integer");
  return value;
}

int64_t Node::int_attribute(const char* name, int64_t otherwise) const {
  return has_attribute(name) ? int_attribute(name) : otherwise;
}

std::vector<int64_t> Node::ints_attribute(const char* name) const {
  size_t count = 0;
  if (!found(host_, ort::attribute_ints(host_.api, info_, name, nullptr, &count))) missing(name, "a list of integers");
  std::vector<int64_t> values(count);
  check(host_.api, ort::attribute_ints(host_.api, info_, name, values.data(), &count));
  return values;
}

std::string Node::string_attribute(const char* name) const {
  size_t size = 0;
  if (!found(host_, ort::attribute_string(host_.api, info_, name, nullptr, &size))) missing(name, "a string");
  std::string value(size, '\0');
  check(host_.api, ort::attribute_string(host_.api, info_, name, value.data(), &size));
  value.resize(size - 1);
  return value;
}

std::string Node::string_attribute(const char* name, const char* otherwise) const {
  return has_attribute(name) ? string_attribute(name) : otherwise;
}

std::optional<float> Node::float_attribute(const char* name) const {
  if (!has_attribute(name)) return std::nullopt;
  float value = 0;
  if (!found(host_, ort::attribute_float(host_.api, info_, name, &value))) missing(name, "a float");
  return value;
}

// The host can only be asked about one type at a time.
bool Node::has_attribute(const char* name) const {
  int64_t integer = 0;
  float number = 0;
  size_t size = 0;
  return found(host_, ort::attribute_int(host_.api, info_, name, &integer)) ||
         found(host_, ort::attribute_float(host_.api, info_, name, &number)) ||
         found(host_, ort::attribute_string(host_.api, info_, name, nullptr, &size)) ||
         found(host_, ort::attribute_ints(host_.api, info_, name, nullptr, &size));
}

std::optional<Tensor> Node::constant(size_t input) const {
  int is_constant = 0;
  const ort::Value* value = nullptr;
  check(host_.api, ort::info_constant_input(host_.api, info_, input, &is_constant, &value));
  if (!is_constant || !value) return std::nullopt;
  return tensor_of(host_, value);
}

Dims Node::declared_dims(size_t input) const {
  Owned<ort::TypeInfo> type{host_.api, ort::release_type};
  check(host_.api, ort::info_input_type(host_.api, info_, input, &type.object));
  const ort::ShapeInfo* shape = nullptr;
  check(host_.api, ort::tensor_info(host_.api, type.object, &shape));
  return shape ? dims_of(host_.api, shape) : Dims();
}

ort::Allocator* Node::allocator() const {
  ort::Allocator* allocator = nullptr;
  check(host_.api, ort::info_allocator(host_.api, info_, ort::MemoryType::kDefault, &allocator));
  return allocator;
}

std::optional<Tensor> Call::optional_input(size_t index) const {
  size_t count = 0;
  check(host_.api, ort::input_count(host_.api, context_, &count));
  if (index >= count) return std::nullopt;
  const ort::Value* value = nullptr;
  check(host_.api, ort::input(host_.api, context_, index, &value));
  if (!value) return std::nullopt;
  return tensor_of(host_, value);
}

Tensor Call::input(size_t index) const {
  const ort::Value* value = nullptr;
  check(host_.api, ort::input(host_.api, context_, index, &value));
  if (!value) throw Failure{"input " + std::to_string(index) + " is missing"};
  return tensor_of(host_, value);
}

void* Call::output_data(size_t index, const Dims& dims) const {
  ort::Value* value = nullptr;
  check(host_.api, ort::output(host_.api, context_, index, dims.span().data(), dims.rank(), &value));
  if (!value) throw Failure{"output " + std::to_string(index) + " has no name; name every output"};
  void* data = nullptr;
  check(host_.api, ort::mutable_data(host_.api, value, &data));
  return data;
}

int64_t ShapeCall::int_attribute(const char* name) const {
  const ort::Attribute* attribute = nullptr;
  check(host_.api, ort::shape_attribute(host_.api, context_, name, &attribute));
  int64_t value = 0;
  size_t bytes = 0;
  check(host_.api, ort::read_attribute(host_.api, attribute, ort::AttributeType::kInt, &value, sizeof value, &bytes));
  return value;
}

void ShapeCall::set_output(size_t input, size_t dropped, std::optional<int64_t> appended) const {
  const ort::Api* api = host_.api;
  ort::ShapeInfo* source = nullptr;
  check(api, ort::shape_input(api, context_, input, &source));
  Dims dims = dims_of(api, source);
  if (dims.rank() == 0) return;
  std::vector<const char*> names(dims.rank());
  check(api, ort::symbolic_dimensions(api, source, names.data(), names.size()));
  dims = Dims(dims.span().first(dims.rank() - dropped));
  if (appended) dims.append(*appended);
  names.resize(dims.rank(), "");
  if (appended) names.back() = "";

  // The host would read an open dimension without a name as -1, and warn at each call.
  for (size_t i = 0; i < dims.rank(); i++)
    if (dims[i] < 0 && !*names[i]) return;

  Owned<ort::ShapeInfo> shape{api, ort::release_shape};
  check(api, ort::create_shape(api, &shape.object));
  check(api, ort::set_element_type(api, shape.object, ort::Element::kFloat));
  check(api, ort::set_dimensions(api, shape.object, dims.span().data(), dims.rank()));
  check(api, ort::set_symbolic_dimensions(api, shape.object, names.data(), names.size()));
  check(api, ort::shape_set_output(api, context_, 0, shape.object));
}

void HostPool::run(size_t count, function_ref<void(size_t)> task) {
  struct Job {
    function_ref<void(size_t)> task;
    std::atomic<bool> failed{false};
  } job{task};
  const auto call_task = [](void* data, size_t index) {
    auto& job = *static_cast<Job*>(data);
    try {
      job.task(index);
    } catch (...) {  // would leave the host waiting forever
      job.failed = true;
    }
  };
  check(call_.host().api, ort::parallel_for(call_.host().api, call_.context(), call_task, count, 0, &job));
  if (job.failed) throw Failure{"a task failed; there may not be enough memory"};
}

size_t HostPool::width() const {
  static const size_t processors = std::max(1u, std::thread::hardware_concurrency());
  return processors;
}

Scratch::Scratch(const ScratchSource& source, size_t bytes) : allocator_(source.allocator_) {
  constexpr size_t kAlignment = 64;
  memory_ = allocator_->alloc(allocator_, bytes + kAlignment);
  if (!memory_) throw Failure{"cannot allocate " + std::to_string(bytes) + " bytes of scratch memory"};
  const auto address = reinterpret_cast<uintptr_t>(memory_);
  aligned_ = static_cast<std::byte*>(memory_) + (-address & (kAlignment - 1));
}

}  // namespace llama3
