// Sharing the items of a job among tasks.
#pragma once

#include <algorithm>
#include <atomic>
#include <cstddef>

#include "parallel.h"

namespace llama3 {

// Calls work(slot, item) for every item, each once. No two calls that run at the same time have the same slot, which
// is below parallel.width(): scratch memory goes by slots. A job of one task runs on the caller's thread.
template <class Work>
void for_each_item(Parallel& parallel, size_t items, Work&& work) {
  const size_t tasks = std::min(parallel.width(), items);
  if (tasks <= 1) {
    for (size_t item = 0; item < items; item++) work(size_t{0}, item);
    return;
  }
  std::atomic<size_t> next{0};
  parallel.run(tasks, [&](size_t slot) {
    for (size_t item; (item = next.fetch_add(1, std::memory_order_relaxed)) < items;) work(slot, item);
  });
}

}  // namespace llama3
