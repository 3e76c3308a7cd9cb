// Memory that ends right before an unmapped page, so a read or write past its end crashes.
#pragma once

#include <sys/mman.h>
#include <unistd.h>

#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <cstring>

namespace llama3 {

class GuardedMemory {
 public:
  explicit GuardedMemory(size_t bytes) {
    const size_t page = static_cast<size_t>(sysconf(_SC_PAGESIZE));
    const size_t data_pages = (bytes + page - 1) / page * page;
    size_ = data_pages + 2 * page;
    base_ = static_cast<uint8_t*>(mmap(nullptr, size_, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
    if (base_ == MAP_FAILED || mprotect(base_ + page, data_pages, PROT_READ | PROT_WRITE) != 0) std::abort();
    data_ = base_ + page + data_pages - bytes;
  }
  GuardedMemory(const void* from, size_t bytes) : GuardedMemory(bytes) { std::memcpy(data_, from, bytes); }
  GuardedMemory(GuardedMemory&& other) noexcept : base_(other.base_), data_(other.data_), size_(other.size_) {
    other.base_ = nullptr;
  }
  GuardedMemory& operator=(GuardedMemory&&) = delete;
  ~GuardedMemory() {
    if (base_) munmap(base_, size_);
  }
  uint8_t* data() const { return data_; }

 private:
  uint8_t *base_, *data_;
  size_t size_;
};

}  // namespace llama3
