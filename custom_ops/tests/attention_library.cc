// The attention kernels as a C function, for tests/custom_ops/test_attention_kernel.py.
#include <cstdlib>
#include <cstring>
#include <memory>
#include <vector>

#include "attention_kernels_by_name.h"
#include "spinning_pool.h"

using namespace llama3;

// Attend `count` rows, whose parts are passed as arrays. Return 0, or 1 if this machine cannot run the kernels, or 2 if
// the shape is refused.
extern "C" __attribute__((visibility("default"))) int llama3_test_attention(
    const char* kernels, int64_t num_heads, int64_t kv_heads, int64_t head_dim, int64_t rope_dim, float scale,
    int interleaved, const double* inv_freq, int float32_cache, int64_t count, const float* const* q,
    const float* const* k, const float* const* v, const int64_t* lengths, const int64_t* pasts, void* const* keys,
    void* const* values, const int64_t* capacities, float* const* outputs, int64_t threads) {
  const AttentionKernels* tables = attention_kernels_by_name(kernels);
  if (!tables) return 1;
  const AttentionShape shape{num_heads, kv_heads, head_dim, rope_dim, scale, interleaved != 0};
  if (!attention_shape_error(shape).empty()) return 2;
  const auto type = float32_cache ? CacheType::kFloat32 : CacheType::kFloat16;
  std::vector<AttentionRow> rows;
  rows.reserve(static_cast<size_t>(count));
  for (int64_t i = 0; i < count; i++) {
    rows.push_back({q[i], k[i], v[i], lengths[i], pasts[i], keys[i], values[i], capacities[i], outputs[i]});
  }
  SpinningPool pool(static_cast<size_t>(threads));
  const size_t bytes = attention_scratch_bytes(shape, rows, pool.width());
  const std::unique_ptr<std::byte, decltype(&std::free)> scratch(static_cast<std::byte*>(std::aligned_alloc(64, bytes)),
                                                                 &std::free);
  std::memset(scratch.get(), 0xff, bytes);  // NaN: nothing may be read before it is written
  attention_with(tables[static_cast<size_t>(type)], shape, type, inv_freq, rows, pool, scratch.get());
  return 0;
}
