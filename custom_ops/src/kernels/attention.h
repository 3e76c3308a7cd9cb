// Causal grouped-query attention over a KV cache: rotates the new queries and keys (RoPE), appends keys and values to
// the cache in place, and attends. One call computes any number of rows, each with its own cache, past and number of
// new tokens: a single token or a chunk of a prompt. The instruction set is chosen at run time (cpu.h).
//
// Arithmetic is float32 with an online softmax. There is one exception: a chunk of more than kMaxQueriesStreamed tokens
// over a float16 cache (never a float32 cache) is multiplied in bfloat16 and summed in float32 where bfloat16 is fast,
// with a relative error of about 3e-3. Angles are computed in double, so late positions are as exact as early ones.
//
// A row's result does not depend on the number of threads or on the other rows. NaN and infinity behave as in float
// arithmetic (a score of infinity makes its row NaN), except that those of a chunk may also reach the chunk's earlier
// positions. A key or a value beyond float16's range becomes an infinity in a float16 cache.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string_view>

#include "parallel.h"

namespace llama3 {

enum class CacheType : uint8_t { kFloat16, kFloat32 };

struct AttentionShape {
  int64_t num_heads;        // query heads: a multiple of kv_heads
  int64_t kv_heads;         // each shared by num_heads / kv_heads consecutive query heads
  int64_t head_dim;         // a multiple of 8, 8 to 256
  int64_t rope_dim;         // rotated values at the start of a head: an even number, 0 to head_dim
  float scale;              // of the scores, usually 1 / sqrt(head_dim)
  bool interleaved = true;  // rotate the pairs (2i, 2i + 1), as GGUF orders them; otherwise (i, i + rope_dim / 2)
};

// The new tokens of one row, at the positions past to past + length - 1, and the row's cache.
struct AttentionRow {
  const float* q;    // [length, num_heads * head_dim]
  const float* k;    // [length, kv_heads * head_dim]
  const float* v;    // [length, kv_heads * head_dim]
  int64_t length;    // at least 1
  int64_t past;      // tokens already in the cache
  void* keys;        // [kv_heads, capacity, head_dim]
  void* values;      // [kv_heads, capacity, head_dim]
  int64_t capacity;  // positions, at least past + length; those from past + length on are neither read nor written
  float* output;     // [length, num_heads * head_dim]; must not overlap the inputs
};

// Up to this many new tokens stream the cache in its own layout. More repack it for a matrix product, which is as fast
// from about here on.
inline constexpr int64_t kMaxQueriesStreamed = 8;

// Return what is wrong with a shape, as a phrase for an error message; empty if nothing is.
std::string_view attention_shape_error(const AttentionShape& shape);

// Return the bytes of scratch memory that `attention` needs for these rows with a pool of this width. The rows'
// pointers are not used.
size_t attention_scratch_bytes(const AttentionShape& shape, std::span<const AttentionRow> rows, size_t width);

// Attend every row. `inv_freq` has rope_dim / 2 frequencies in radians per position. `scratch` is aligned to 64 bytes.
// No two rows share positions of a cache. The caller has checked the shape.
void attention(const AttentionShape& shape, CacheType type, const double* inv_freq, std::span<const AttentionRow> rows,
               Parallel& parallel, std::byte* scratch);

}  // namespace llama3
