// ONNX Runtime as an op sees it, in C++: tensors, attributes, failures, memory, threads. A Node, ShapeCall or Call does
// not outlive the host's call, and no exception reaches the host: ort_op.h turns a Failure into a status.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <initializer_list>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "ort_abi.h"
#include "parallel.h"

namespace llama3 {

// An error, in one line for the user.
struct Failure {
  std::string message;
};

// One copy of ONNX Runtime in this process.
struct Host {
  const ort::Api* api;
  uint32_t version;  // of the API: 23 in onnxruntime 1.23
};

// Throw the host's error as a Failure.
void check(const ort::Api* api, ort::Status* status);

// The dimensions of a tensor, copied because older hosts do not lend them; -1 for an open dimension of a declared
// shape.
class Dims {
 public:
  static constexpr size_t kMaxRank = 8;

  Dims() = default;
  Dims(std::initializer_list<int64_t> dims) : Dims(std::span(dims.begin(), dims.size())) {}
  explicit Dims(std::span<const int64_t> dims);

  size_t rank() const { return rank_; }
  int64_t operator[](size_t axis) const { return values_[axis]; }
  int64_t& operator[](size_t axis) { return values_[axis]; }
  // For shapes with at least one dimension.
  int64_t last() const { return values_[rank_ - 1]; }
  int64_t& last() { return values_[rank_ - 1]; }
  void append(int64_t dim);
  std::span<const int64_t> span() const { return {values_.data(), rank_}; }
  // Return the product of the first `axes` dimensions.
  int64_t product(size_t axes) const;
  std::string text() const;  // "[2, 3]"
  bool operator==(const Dims& other) const;

 private:
  std::array<int64_t, kMaxRank> values_{};
  size_t rank_ = 0;
};

// A borrowed tensor.
struct Tensor {
  Dims dims;
  void* data;

  template <class T>
  const T* as() const {
    return static_cast<const T*>(data);
  }
};

// A node whose kernel is being created.
class Node {
 public:
  Node(const Host& host, const ort::KernelInfo* info) : host_(host), info_(info) {}

  const Host& host() const { return host_; }
  std::string name() const;
  size_t input_count() const;
  size_t output_count() const;

  // Attributes. One without a default value is required. One of another type is an error, except that lists of floats
  // or strings count as absent, because the host does not report them.
  int64_t int_attribute(const char* name) const;
  int64_t int_attribute(const char* name, int64_t otherwise) const;
  std::vector<int64_t> ints_attribute(const char* name) const;
  std::string string_attribute(const char* name) const;
  std::string string_attribute(const char* name, const char* otherwise) const;
  std::optional<float> float_attribute(const char* name) const;

  // Return an input if it is a constant. Its data stays in place as long as the kernel lives.
  std::optional<Tensor> constant(size_t input) const;
  // Return the declared shape of an input. An unknown rank looks like a scalar.
  Dims declared_dims(size_t input) const;

  // The caller releases the result.
  ort::Allocator* allocator() const;

 private:
  bool has_attribute(const char* name) const;

  const Host& host_;
  const ort::KernelInfo* info_;
};

// One call of a kernel.
class Call {
 public:
  Call(const Host& host, ort::KernelContext* context) : host_(host), context_(context) {}

  // Fail if the node omits this input.
  Tensor input(size_t index) const;
  std::optional<Tensor> optional_input(size_t index) const;
  template <class T>
  T* output(size_t index, const Dims& dims) const {
    return static_cast<T*>(output_data(index, dims));
  }
  ort::KernelContext* context() const { return context_; }
  const Host& host() const { return host_; }

 private:
  void* output_data(size_t index, const Dims& dims) const;

  const Host& host_;
  ort::KernelContext* context_;
};

// The declared shapes of a node's inputs, before it has a kernel.
class ShapeCall {
 public:
  ShapeCall(const Host& host, ort::ShapeContext* context) : host_(host), context_(context) {}

  int64_t int_attribute(const char* name) const;
  // Declare output 0 as float32, with the shape of an input minus its last `dropped` axes, plus `appended`. Keep the
  // names of open dimensions. Do nothing if the input's rank is unknown or an open dimension has no name. Declare only
  // output 0: the host does not say how many there are, and some versions end the process for one too many.
  void set_output(size_t input, size_t dropped, std::optional<int64_t> appended) const;

 private:
  const Host& host_;
  ort::ShapeContext* context_;
};

// The host's thread pool.
class HostPool final : public Parallel {
 public:
  explicit HostPool(const Call& call) : call_(call) {}
  void run(size_t count, function_ref<void(size_t)> task) override;
  // The host does not tell how many threads its pool has, so return the number of processors. Tasks beyond the threads
  // find nothing left to do, which costs a few nanoseconds each.
  size_t width() const override;

 private:
  const Call& call_;
};

// The source of a call's scratch memory: the host's arena, which reuses the same pages.
class ScratchSource {
 public:
  explicit ScratchSource(const Node& node) : api_(node.host().api), allocator_(node.allocator()) {}
  ~ScratchSource() { ort::release_allocator(api_, allocator_); }
  ScratchSource(const ScratchSource&) = delete;
  ScratchSource& operator=(const ScratchSource&) = delete;

 private:
  friend class Scratch;
  const ort::Api* api_;
  ort::Allocator* allocator_;
};

class Scratch {
 public:
  Scratch(const ScratchSource& source, size_t bytes);
  ~Scratch() { allocator_->free(allocator_, memory_); }
  Scratch(const Scratch&) = delete;
  Scratch& operator=(const Scratch&) = delete;

  std::byte* data() const { return aligned_; }  // aligned to 64 bytes

 private:
  ort::Allocator* allocator_;
  void* memory_;
  std::byte* aligned_;
};

}  // namespace llama3
