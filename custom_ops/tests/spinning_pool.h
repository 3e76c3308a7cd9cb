// A thread pool for tests and benchmarks, in place of the host's. Its threads spin between jobs, like ONNX Runtime's,
// so a benchmark does not measure how fast the operating system wakes them.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <thread>
#include <vector>

#include "parallel.h"

namespace llama3 {

class SpinningPool : public Parallel {
 public:
  explicit SpinningPool(size_t width) : width_(width) {
    for (size_t i = 1; i < width; i++) threads_.emplace_back([this](const std::stop_token& stop) { serve(stop); });
  }
  ~SpinningPool() override {
    for (std::jthread& thread : threads_) thread.request_stop();
  }

  void run(size_t count, function_ref<void(size_t)> task) override {
    task_ = &task;
    count_ = count;
    next_.store(0, std::memory_order_relaxed);
    busy_.store(threads_.size(), std::memory_order_relaxed);
    generation_.fetch_add(1, std::memory_order_release);
    work();
    for (uint32_t spins = 0; busy_.load(std::memory_order_acquire) != 0;) rest(spins);
  }
  size_t width() const override { return width_; }

 private:
  // Yield after a while: there may be more threads than processors, or other programs.
  static void rest(uint32_t& spins) {
    if (++spins % 4096 == 0) std::this_thread::yield();
  }

  void work() {
    for (size_t index; (index = next_.fetch_add(1, std::memory_order_relaxed)) < count_;) (*task_)(index);
  }

  void serve(const std::stop_token& stop) {
    uint64_t seen = 0;
    for (uint32_t spins = 0; !stop.stop_requested();) {
      if (generation_.load(std::memory_order_acquire) == seen) {
        rest(spins);
        continue;
      }
      seen++;
      work();
      busy_.fetch_sub(1, std::memory_order_release);
    }
  }

  const size_t width_;
  function_ref<void(size_t)>* task_ = nullptr;
  size_t count_ = 0;
  std::atomic<size_t> next_{0}, busy_{0};
  std::atomic<uint64_t> generation_{0};
  std::vector<std::jthread> threads_;
};

}  // namespace llama3
