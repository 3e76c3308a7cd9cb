// How a kernel distributes its work. Ops pass the host's thread pool and tests a plain one, so kernels depend on
// neither. A kernel assigns a slot of scratch memory to each task by its index. Tasks take items from a counter,
// because the host's pool does not say which thread runs what.
#pragma once

#include <cstddef>
#include <memory>
#include <type_traits>
#include <utility>

namespace llama3 {

template <class Signature>
class function_ref;

// A non-owning reference to a callable: two pointers, no allocation.
template <class Result, class... Arguments>
class function_ref<Result(Arguments...)> {
 public:
  template <class Callable>
    requires(!std::is_same_v<std::remove_cvref_t<Callable>, function_ref>)
  function_ref(Callable&& callable)  // NOLINT: conversion is the purpose
      : object_(const_cast<void*>(static_cast<const void*>(std::addressof(callable)))),
        call_([](void* object, Arguments... arguments) -> Result {
          return (*static_cast<std::remove_reference_t<Callable>*>(object))(std::forward<Arguments>(arguments)...);
        }) {}

  Result operator()(Arguments... arguments) const { return call_(object_, std::forward<Arguments>(arguments)...); }

 private:
  void* object_;
  Result (*call_)(void*, Arguments...);
};

class Parallel {
 public:
  virtual ~Parallel() = default;
  // Call task(0) to task(count - 1), each once, in any order and on any thread, and return when all have ended. A task
  // must not throw.
  virtual void run(size_t count, function_ref<void(size_t)> task) = 0;
  // Return the number of threads, which is the number of tasks worth creating.
  virtual size_t width() const = 0;
};

}  // namespace llama3
