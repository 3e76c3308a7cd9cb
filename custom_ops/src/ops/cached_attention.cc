#include "ops/cached_attention.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <string>
#include <vector>

#include "kernels/work.h"

namespace llama3 {
namespace {

using ort::Element;

enum Input : size_t { kQ, kK, kV, kPastKey, kPastValue, kSeqlensK, kTotalLength, kInvFreq, kSeqlensQ };

template <Element Cache>
constexpr Element kInputs[] = {Element::kFloat, Element::kFloat, Element::kFloat,  Cache,          Cache,
                               Element::kInt32, Element::kInt32, Element::kDouble, Element::kInt32};
template <Element Cache>
constexpr Element kOutputs[] = {Element::kFloat, Cache, Cache};

void expect(const Tensor& tensor, const char* name, const Dims& expected) {
  if (tensor.dims == expected) return;
  throw Failure{std::string(name) + " is " + tensor.dims.text() + ", not " + expected.text()};
}

// How many past and new tokens a row has.
struct RowSpan {
  int64_t past, length;
};

// Split a row's tokens into past and new. Of S `new_tokens`, `length` are real. Without `length`, S = total begins a
// sequence; otherwise all S are real.
RowSpan span_of_row(int64_t tokens, std::optional<int64_t> length, int64_t new_tokens, int64_t total) {
  if (length && (*length < 0 || *length > new_tokens)) {
    throw Failure{"seqlens_q is " + std::to_string(*length) + " for a row; it must be 0 to " +
                  std::to_string(new_tokens)};
  }
  const bool begins = !length && total == new_tokens;
  const int64_t real = length.value_or(begins ? 0 : new_tokens);
  if (tokens < real || tokens > total) {
    throw Failure{"seqlens_k says that a row has " + std::to_string(tokens) + " tokens, but " +
                  std::to_string(length.value_or(new_tokens)) + " are new and total_length is " +
                  std::to_string(total)};
  }
  return begins ? RowSpan{0, tokens} : RowSpan{tokens - real, real};
}

// One of the cache's two tensors: past and present, each [batch, kv_heads, its capacity, head_dim].
struct CacheTensor {
  const std::byte* past;
  std::byte* present;

  bool shared() const { return past == present; }
};

// For a cache that is not shared, copy each row's past and clear the positions that its new tokens do not fill.
void carry_over(const CacheTensor& cache, std::span<const RowSpan> spans, int64_t kv_heads, int64_t past_capacity,
                int64_t capacity, size_t position_bytes, Parallel& parallel) {
  for_each_item(parallel, spans.size() * static_cast<size_t>(kv_heads), [&](size_t, size_t head) {
    const RowSpan& span = spans[head / static_cast<size_t>(kv_heads)];
    const auto bytes = [&](int64_t positions) { return static_cast<size_t>(positions) * position_bytes; };
    std::byte* target = cache.present + head * bytes(capacity);
    if (span.past > 0) std::memcpy(target, cache.past + head * bytes(past_capacity), bytes(span.past));
    const int64_t end = span.past + span.length;
    std::memset(target + bytes(end), 0, bytes(capacity - end));
  });
}

}  // namespace

const OpSpec CachedAttentionFloat16::kSpec = {"CachedAttention", kInputs<Element::kFloat16>,
                                              kOutputs<Element::kFloat16>, 8};
const OpSpec CachedAttentionFloat32::kSpec = {"CachedAttention", kInputs<Element::kFloat>, kOutputs<Element::kFloat>,
                                              8};

CachedAttention::CachedAttention(const Node& node, CacheType type)
    : type_(type),
      num_heads_(node.int_attribute("num_heads")),
      kv_heads_(node.int_attribute("kv_num_heads")),
      scale_(node.float_attribute("scale")),
      interleaved_(node.int_attribute("rotary_interleaved", 1) != 0),
      inv_freq_(node.constant(kInvFreq)),
      scratch_(node) {
  // Check what is known at load. Each call checks all of it again.
  const Dims past = node.declared_dims(kPastKey);
  if (inv_freq_ && past.rank() == 4 && past[3] >= 0) shape_for(past[3], *inv_freq_);
}

AttentionShape CachedAttention::shape_for(int64_t head_dim, const Tensor& inv_freq) const {
  if (inv_freq.dims.rank() != 1) throw Failure{"inv_freq is " + inv_freq.dims.text() + "; it must have 1 dimension"};
  const AttentionShape shape{.num_heads = num_heads_,
                             .kv_heads = kv_heads_,
                             .head_dim = head_dim,
                             .rope_dim = 2 * inv_freq.dims[0],
                             .scale = scale_.value_or(1 / std::sqrt(static_cast<float>(head_dim))),
                             .interleaved = interleaved_};
  const std::string_view problem = attention_shape_error(shape);
  if (problem.empty()) return shape;
  throw Failure{"num_heads " + std::to_string(num_heads_) + ", kv_num_heads " + std::to_string(kv_heads_) +
                ", head_dim " + std::to_string(head_dim) + ", inv_freq " + inv_freq.dims.text() + ": " +
                std::string(problem)};
}

void CachedAttention::compute(const Call& call) const {
  const Tensor q = call.input(kQ), k = call.input(kK), v = call.input(kV);
  const Tensor past_key = call.input(kPastKey), past_value = call.input(kPastValue);
  const Tensor seqlens_k = call.input(kSeqlensK), total_length = call.input(kTotalLength);
  const Tensor inv_freq = inv_freq_ ? *inv_freq_ : call.input(kInvFreq);
  const std::optional<Tensor> seqlens_q = call.optional_input(kSeqlensQ);

  // Shapes.
  if (past_key.dims.rank() != 4) throw Failure{"past_key is " + past_key.dims.text() + "; it must have 4 dimensions"};
  if (q.dims.rank() != 3) throw Failure{"q is " + q.dims.text() + "; it must have 3 dimensions"};
  const int64_t batch = q.dims[0], new_tokens = q.dims[1];
  const int64_t past_capacity = past_key.dims[2], head_dim = past_key.dims[3];
  const AttentionShape shape = shape_for(head_dim, inv_freq);
  if (batch < 1 || new_tokens < 1) throw Failure{"q is " + q.dims.text() + " and has no tokens"};
  if (q.dims[2] % num_heads_ != 0 || q.dims[2] / num_heads_ != head_dim) {  // a product might overflow
    throw Failure{"q is " + q.dims.text() + ", not " + std::to_string(num_heads_) + " heads of " +
                  std::to_string(head_dim) + " values"};
  }
  const int64_t q_size = q.dims[2], kv_size = kv_heads_ * head_dim;
  expect(k, "k", {batch, new_tokens, kv_size});
  expect(v, "v", {batch, new_tokens, kv_size});
  expect(past_key, "past_key", {batch, kv_heads_, past_capacity, head_dim});
  expect(past_value, "past_value", past_key.dims);
  if (seqlens_k.dims.product(seqlens_k.dims.rank()) != batch) expect(seqlens_k, "seqlens_k", {batch});
  if (total_length.dims.product(total_length.dims.rank()) != 1) expect(total_length, "total_length", {});
  if (seqlens_q && seqlens_q->dims.product(seqlens_q->dims.rank()) != batch) expect(*seqlens_q, "seqlens_q", {batch});

  // Lengths.
  const int64_t total = *total_length.as<int32_t>();
  if (total < new_tokens || total > past_capacity + new_tokens) {
    throw Failure{"total_length is " + std::to_string(total) + ", but there are " + std::to_string(new_tokens) +
                  " new tokens and room for " + std::to_string(past_capacity) + " in the past"};
  }
  std::vector<RowSpan> spans;
  spans.reserve(static_cast<size_t>(batch));
  for (int64_t row = 0; row < batch; row++) {
    const int64_t tokens = int64_t{seqlens_k.as<int32_t>()[row]} + 1;
    const auto length = seqlens_q ? std::optional<int64_t>(seqlens_q->as<int32_t>()[row]) : std::nullopt;
    const RowSpan& span = spans.emplace_back(span_of_row(tokens, length, new_tokens, total));
    if (span.past > past_capacity) {
      throw Failure{"seqlens_k says that a row has " + std::to_string(span.past) +
                    " past tokens, but past_key has room for " + std::to_string(past_capacity)};
    }
  }

  // Outputs.
  const int64_t capacity = std::max(past_capacity, total);
  const Dims present_dims{batch, kv_heads_, capacity, head_dim};
  auto* y = call.output<float>(0, q.dims);
  const CacheTensor keys{past_key.as<std::byte>(), call.output<std::byte>(1, present_dims)};
  const CacheTensor values{past_value.as<std::byte>(), call.output<std::byte>(2, present_dims)};
  for (const CacheTensor& cache : {keys, values}) {
    if (cache.shared() && capacity != past_capacity) {
      throw Failure{"past and present share a buffer that has no room for " + std::to_string(total) + " tokens"};
    }
    if (!cache.shared() && seqlens_q && total != past_capacity + new_tokens) {
      throw Failure{"total_length is " + std::to_string(total) + ", not " + std::to_string(past_capacity) +
                    " past plus " + std::to_string(new_tokens) + " new tokens; the attention mask may be too narrow"};
    }
  }

  HostPool pool(call);
  const size_t position_bytes = static_cast<size_t>(head_dim) * (type_ == CacheType::kFloat16 ? 2 : 4);
  for (const CacheTensor& cache : {keys, values}) {
    if (!cache.shared()) carry_over(cache, spans, kv_heads_, past_capacity, capacity, position_bytes, pool);
  }
  std::vector<AttentionRow> rows;
  rows.reserve(static_cast<size_t>(batch));
  for (int64_t row = 0; row < batch; row++) {
    const RowSpan& span = spans[static_cast<size_t>(row)];
    const int64_t first = row * new_tokens;  // the index of the row's first token
    const size_t cache_offset = static_cast<size_t>(row * kv_heads_ * capacity) * position_bytes;
    std::fill(y + (first + span.length) * q_size, y + (first + new_tokens) * q_size, 0.0f);
    if (span.length == 0) continue;
    rows.push_back({.q = q.as<float>() + first * q_size,
                    .k = k.as<float>() + first * kv_size,
                    .v = v.as<float>() + first * kv_size,
                    .length = span.length,
                    .past = span.past,
                    .keys = keys.present + cache_offset,
                    .values = values.present + cache_offset,
                    .capacity = capacity,
                    .output = y + first * q_size});
  }
  const Scratch scratch(scratch_, attention_scratch_bytes(shape, rows, pool.width()));
  attention(shape, type_, inv_freq.as<double>(), rows, pool, scratch.data());
}

void CachedAttention::infer_shapes(const ShapeCall& call) { call.set_output(kQ, 0, std::nullopt); }

}  // namespace llama3
