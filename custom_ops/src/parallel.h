// How a kernel spreads its work. The ops hand in the host's thread pool, the tests a plain one, so that no kernel knows
// either. A kernel gives every task a slot of scratch memory by its index and lets the tasks take items from a counter:
// the host's pool tells nobody which thread runs what.
#pragma once

#include <cstddef>
#include <memory>
#include <type_traits>
#include <utility>

namespace llama3 {

template <class Signature>
class function_ref;

// A callable that is called but not kept: two pointers, no allocation.
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
  // Calls task(0) to task(count - 1), each once, in any order and on any thread, and returns when all have ended.
  // A task must not throw.
  virtual void run(size_t count, function_ref<void(size_t)> task) = 0;
  // The number of tasks worth making: the number of threads.
  virtual size_t width() const = 0;
};

}  // namespace llama3
