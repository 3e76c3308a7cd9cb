// Measure matmul on one shape, in alternation with the machine's limit for the same instruction set (LLAMA3_CPU selects
// one): reading the weights' bytes for few rows of A, multiplying int8 in registers for many. Print medians.
//   matmul FORMAT N K M [THREADS [SECONDS]]
#include "kernels/matmul.h"

#include <sys/mman.h>

#include <cstdio>
#include <cstdlib>
#include <random>

#include "machine_limits.h"
#include "spinning_pool.h"

using namespace llama3;
using namespace llama3::bench;

int main(int argc, char** argv) {
  const FormatInfo* format = argc >= 5 ? find_format(argv[1]) : nullptr;
  if (!format) {
    std::fprintf(stderr, "usage: matmul FORMAT N K M [THREADS [SECONDS]]\n");
    return 2;
  }
  const int64_t N = std::atoll(argv[2]), K = std::atoll(argv[3]), M = std::atoll(argv[4]);
  SpinningPool pool(argc > 5 ? std::strtoul(argv[5], nullptr, 10) : 2);
  const double budget = argc > 6 ? std::atof(argv[6]) : 3.0;

  // Enough copies to exceed every cache, unless the weights are so small that a model's own would also be cached.
  const Matrix shape = {nullptr, format->format, N, K};
  const size_t bytes = shape.row_bytes() * static_cast<size_t>(N);
  const size_t total = M <= 16 ? (bytes > (4u << 20) ? size_t{1100} << 20 : 4 * bytes) : 3 * bytes;
  const size_t copies = std::max<size_t>(1, total / bytes);
  auto* data =
      static_cast<uint8_t*>(mmap(nullptr, copies * bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
  if (data == MAP_FAILED) return 1;
  std::minstd_rand random(1);
  // Bytes that are valid scales in every format: not NaN, infinite or subnormal.
  for (size_t i = 0; i < bytes; i++) data[i] = 0x30 | (static_cast<uint8_t>(random() >> 8) & 0x0f);
  for (size_t i = 1; i < copies; i++) std::copy_n(data, bytes, data + i * bytes);

  std::vector<float> A(static_cast<size_t>(M * K)), Y(static_cast<size_t>(M * N));
  for (float& a : A) a = static_cast<float>(random() % 2001) / 1000.0f - 1.0f;
  Product product = {{data, format->format, N, K}, nullptr, Y.data()};
  const size_t scratch_bytes = matmul_scratch_bytes({&product, 1}, M, Activations::kInt8, pool.width());
  auto* scratch = static_cast<std::byte*>(std::aligned_alloc(64, (scratch_bytes + 63) / 64 * 64));

  const bool streams = M <= 16;
  const int64_t peak_rounds = 400000;
  std::vector<double> kernel, limit;
  double peak_work = 0;
  const double begin = seconds();
  for (size_t round = 0; round < 4 || seconds() - begin < budget; round++) {
    product.weight.data = data + round % copies * bytes;
    const double t0 = seconds();
    if (streams)
      read_all(data + (round + copies / 2) % copies * bytes, bytes, pool);
    else
      peak_work = multiply_adds_in_registers(peak_rounds, pool);
    const double t1 = seconds();
    matmul({&product, 1}, A.data(), M, Activations::kInt8, pool, scratch);
    const double t2 = seconds();
    limit.push_back(t1 - t0);
    kernel.push_back(t2 - t1);
  }
  const auto least = [](const std::vector<double>& times) { return *std::min_element(times.begin(), times.end()); };
  const double time = median(kernel), best = least(kernel);
  std::printf("%-7s N %lld K %lld M %lld: %.4f ms (best %.4f)", argv[1], static_cast<long long>(N),
              static_cast<long long>(K), static_cast<long long>(M), time * 1e3, best * 1e3);
  const double work = streams ? static_cast<double>(bytes) / 1e9
                              : static_cast<double>(M) * static_cast<double>(N) * static_cast<double>(K) / 1e9;
  const double limit_work = streams ? work : peak_work / 1e9;
  std::printf(", %.1f of %.1f %s: %.0f%% (best of each: %.1f of %.1f, %.0f%%)\n", work / time,
              limit_work / median(limit), streams ? "GB/s" : "G multiply-adds/s",
              100 * work / time / (limit_work / median(limit)), work / best, limit_work / least(limit),
              100 * work / best / (limit_work / least(limit)));
}
