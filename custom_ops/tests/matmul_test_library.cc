// The matmul kernels for tests, through plain C functions (ctypes): any instruction set by its name, on weights,
// activations and outputs that end right before an unmapped page, so that a read or write past an end crashes.
#include <sys/mman.h>
#include <unistd.h>

#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <string_view>
#include <vector>

#include "kernels/cpu.h"
#include "kernels/matmul_kernels.h"
#include "spinning_pool.h"

using namespace llama3;

namespace {

// `bytes` bytes that end where the mapping ends.
class Guarded {
 public:
  explicit Guarded(size_t bytes) {
    const size_t page = static_cast<size_t>(sysconf(_SC_PAGESIZE));
    const size_t data_pages = (bytes + page - 1) / page * page;
    size_ = data_pages + 2 * page;
    base_ = static_cast<uint8_t*>(mmap(nullptr, size_, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
    if (base_ == MAP_FAILED || mprotect(base_ + page, data_pages, PROT_READ | PROT_WRITE) != 0) std::abort();
    data_ = base_ + page + data_pages - bytes;
  }
  Guarded(const void* from, size_t bytes) : Guarded(bytes) { std::memcpy(data_, from, bytes); }
  Guarded(Guarded&& other) noexcept : base_(other.base_), data_(other.data_), size_(other.size_) {
    other.base_ = nullptr;
  }
  Guarded& operator=(Guarded&&) = delete;
  ~Guarded() {
    if (base_) munmap(base_, size_);
  }
  uint8_t* data() const { return data_; }

 private:
  uint8_t *base_, *data_;
  size_t size_;
};

const MatmulKernels* find_kernels(std::string_view instruction_set) {
#if defined(__x86_64__)
  if (instruction_set == "avx512" && llama3::instruction_set() == InstructionSet::kAVX512) return &avx512::kMatmul;
#endif
  return instruction_set == "scalar" ? &scalar::kMatmul : nullptr;
}

}  // namespace

#define EXPORT extern "C" __attribute__((visibility("default")))

EXPORT int has_instruction_set(const char* name) { return find_kernels(name) != nullptr; }

EXPORT const char* format_name(int index) {
  return index < kFormatCount ? info(static_cast<Format>(index)).name.data() : nullptr;
}

// Multiplies A [M, K] with `count` weights [rows[i], K]. Returns 0, or 1 for an unknown name.
EXPORT int multiply(const char* instruction_set, int float32, int64_t threads, int64_t K, int64_t M, const float* A,
                    int count, const char* const* formats, const int64_t* rows, const uint8_t* const* weights,
                    const float* const* biases, float* const* outputs) {
  const MatmulKernels* kernels = find_kernels(instruction_set);
  if (!kernels) return 1;
  const Guarded a(A, static_cast<size_t>(M * K) * sizeof(float));
  std::vector<Guarded> copies, results;
  std::vector<Product> products;
  for (int i = 0; i < count; i++) {
    const FormatInfo* format = find_format(formats[i]);
    if (!format) return 1;
    const Matrix matrix = {weights[i], format->format, rows[i], K};
    copies.emplace_back(weights[i], matrix.row_bytes() * static_cast<size_t>(rows[i]));
    results.emplace_back(static_cast<size_t>(M * rows[i]) * sizeof(float));
    products.push_back({{copies.back().data(), format->format, rows[i], K},
                        biases[i],
                        reinterpret_cast<float*>(results.back().data())});
  }
  const Activations activations = float32 ? Activations::kFloat32 : Activations::kInt8;
  SpinningPool pool(static_cast<size_t>(threads));
  const size_t bytes = kernels->scratch_bytes(products, M, activations, pool.width());
  const size_t aligned = (bytes + 63) / 64 * 64;
  const Guarded scratch(aligned);
  std::memset(scratch.data(), 0xff, aligned);
  kernels->multiply(products, reinterpret_cast<const float*>(a.data()), M, activations, pool,
                    reinterpret_cast<std::byte*>(scratch.data()));
  for (int i = 0; i < count; i++)
    std::memcpy(outputs[i], results[static_cast<size_t>(i)].data(), static_cast<size_t>(M * rows[i]) * sizeof(float));
  return 0;
}

// The weights of one row.
EXPORT int dequantize(const char* instruction_set, const char* format, int64_t count, const uint8_t* row, float* out) {
  const MatmulKernels* kernels = find_kernels(instruction_set);
  const FormatInfo* layout = find_format(format);
  if (!kernels || !layout) return 1;
  const Matrix matrix = {row, layout->format, 1, count};
  const Guarded copy(row, matrix.row_bytes());
  const Guarded result(static_cast<size_t>(count) * sizeof(float));
  kernels->dequantize(layout->format, copy.data(), count, reinterpret_cast<float*>(result.data()));
  std::memcpy(out, result.data(), static_cast<size_t>(count) * sizeof(float));
  return 0;
}
