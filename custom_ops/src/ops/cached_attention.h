// Attention over a KV cache: RoPE, append, causal grouped-query attention. See kernels/attention.h for the arithmetic.
#pragma once

#include <optional>

#include "kernels/attention.h"
#include "ops/host.h"
#include "ort_op.h"

namespace llama3 {

// (q float [batch, S, num_heads * head_dim], k and v float [batch, S, kv_num_heads * head_dim],
//  past_key and past_value [batch, kv_num_heads, past, head_dim],
//  seqlens_k int32 [batch]: tokens of each row so far, including the new ones, minus one,
//  total_length int32 []: an upper bound of the tokens of every row,
//  inv_freq double [rope_dim / 2]: radians per position,
//  seqlens_q int32 [batch], optional: new tokens of each row, 0 to S)
//  -> (y float, as q; present_key and present_value [batch, kv_num_heads, max(past, total_length), head_dim]).
// Attributes num_heads, kv_num_heads, scale = 1 / sqrt(head_dim), rotary_interleaved = 1.
//
// With seqlens_q, the first seqlens_q of a row's S tokens are real, and its past has seqlens_k + 1 - seqlens_q tokens.
// Rows may have any mix of lengths. Without seqlens_q, the rule is GroupQueryAttention's: S = total_length begins a
// sequence, and a row may then have fewer than S tokens; otherwise all S tokens of each row are real. Past and present
// may be one buffer; the op then appends in place. If they are separate, the op copies the past, and with seqlens_q the
// past must have exactly total_length - S positions. y is zero past the end of a row; so is the present, except in a
// shared buffer, which keeps what it had there.
class CachedAttention {
 public:
  void compute(const Call& call) const;
  static void infer_shapes(const ShapeCall& call);

 protected:
  CachedAttention(const Node& node, CacheType type);

 private:
  AttentionShape shape_for(int64_t head_dim, const Tensor& inv_freq) const;

  CacheType type_;
  int64_t num_heads_, kv_heads_;
  std::optional<float> scale_;
  bool interleaved_;
  std::optional<Tensor> inv_freq_;  // if it is a constant, as is usual
  ScratchSource scratch_;
};

// The op is registered once per type of the cache, which tells the host which types go together.
class CachedAttentionFloat16 : public CachedAttention {
 public:
  static const OpSpec kSpec;
  explicit CachedAttentionFloat16(const Node& node) : CachedAttention(node, CacheType::kFloat16) {}
};

class CachedAttentionFloat32 : public CachedAttention {
 public:
  static const OpSpec kSpec;
  explicit CachedAttentionFloat32(const Node& node) : CachedAttention(node, CacheType::kFloat32) {}
};

}  // namespace llama3
