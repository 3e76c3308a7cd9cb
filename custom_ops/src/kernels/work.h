// Sharing the items of a job among tasks.
#pragma once

#include <atomic>
#include <cstddef>

#include "parallel.h"

namespace llama3 {

// Call work(slot, item) once for every item. Calls that run at the same time have different slots, all below
// parallel.width(), so each slot can have its own scratch memory. A job of one task runs on the caller's thread.
//
// Each task goes through a range of neighboring items in order, so a thread reads memory in one stream and itself needs
// what it prefetches past an item's end. A task that is done helps with the other ranges.
template <class Work>
void for_each_item(Parallel& parallel, size_t items, Work&& work) {
  constexpr size_t kMaxTasks = 128;
  size_t tasks = parallel.width() < items ? parallel.width() : items;
  if (tasks > kMaxTasks) tasks = kMaxTasks;
  if (tasks <= 1) {
    for (size_t item = 0; item < items; item++) work(size_t{0}, item);
    return;
  }
  struct alignas(64) Range {  // one cache line each, so threads do not share the lines of counters
    std::atomic<size_t> next;
    size_t end;
  };
  Range ranges[kMaxTasks];
  for (size_t i = 0; i < tasks; i++) {
    ranges[i].next.store(i * items / tasks, std::memory_order_relaxed);
    ranges[i].end = (i + 1) * items / tasks;
  }
  parallel.run(tasks, [&](size_t slot) {
    for (size_t i = 0; i < tasks; i++) {
      Range& range = ranges[(slot + i) % tasks];
      for (size_t item; (item = range.next.fetch_add(1, std::memory_order_relaxed)) < range.end;) work(slot, item);
    }
  });
}

}  // namespace llama3
