// Cuts attention into work items and puts the parts together again. An item is a KV head, a block of queries and a
// range of positions: ranges keep many threads busy where there are few heads and queries, as for one token at a long
// context. How the positions are split depends on the shape of the call alone, never on the number of threads, and the
// partial softmaxes merge in the order of the positions, so the result does not depend on the threads either.
#include "kernels/attention.h"

#include <algorithm>
#include <atomic>
#include <cfloat>
#include <memory>

#include "kernels/attention_kernels.h"
#include "kernels/cpu.h"
#include "kernels/work.h"

namespace llama3 {
namespace {

// Items worth making: one for each of 64 threads. More would cost: each leaves a partial state in memory, by which time
// the cache has passed through the processor's own caches.
constexpr int64_t kItems = 64;
// A range of fewer positions is not worth an item.
constexpr int64_t kMinSplitStreamed = 128, kMinSplitTiled = 512;
// Rows of a tiled block: each block repacks its keys and values for itself, 3% of its work at this number, and its
// queries and outputs stay in the second-level cache.
constexpr int64_t kRowsTiled = 256;
// Tokens that one task rotates at a time.
constexpr int64_t kTokensPerItem = 8;

struct Plan {
  int64_t group, padded_dim;
  bool streamed;
  int64_t queries_per_block, query_blocks;
  int64_t splits, positions_per_split;
  int64_t rows, padded_rows;  // of a block
  int64_t state_floats;       // of one state of a block

  Plan(const AttentionShape& shape, int64_t length, int64_t past)
      : group(shape.num_heads / shape.kv_heads),
        padded_dim(round_up(shape.head_dim, kDimMultiple)),
        streamed(length <= kMaxQueriesStreamed) {
    queries_per_block = streamed ? length : std::clamp<int64_t>(kRowsTiled / group, 1, length);
    query_blocks = (length + queries_per_block - 1) / queries_per_block;
    const int64_t depth = past + length;
    const int64_t most_splits = std::max<int64_t>(1, kItems / (shape.kv_heads * query_blocks));
    const int64_t least_positions = streamed ? kMinSplitStreamed : kMinSplitTiled;
    positions_per_split = round_up(std::max((depth + most_splits - 1) / most_splits, least_positions), kTilePositions);
    splits = (depth + positions_per_split - 1) / positions_per_split;
    rows = queries_per_block * group;
    padded_rows = streamed ? rows : round_up(rows, kTileRows);
    state_floats = round_up(padded_rows * (2 + padded_dim), 16);
  }

  // The parts of a state, `index` states after `base`.
  SoftmaxState state(float* base, int64_t index) const {
    float* output = base + index * state_floats;
    float* max = output + padded_rows * padded_dim;
    return {max, max + padded_rows, output};
  }
};

// Where the parts of the scratch memory begin, each aligned to 64 bytes.
struct ScratchLayout {
  size_t queries = 0, unfinished, states, workspaces, workspace_size, total;

  ScratchLayout(const AttentionShape& shape, const Plan& plan, int64_t length, size_t width) {
    const auto aligned = [](size_t bytes) { return (bytes + 63) / 64 * 64; };
    const auto floats = [&](int64_t count) { return aligned(sizeof(float) * static_cast<size_t>(count)); };
    const int64_t blocks = shape.kv_heads * plan.query_blocks;
    // A block that is not split needs its state only while a task works at it.
    const int64_t states_needed = plan.splits > 1 ? blocks * plan.splits : static_cast<int64_t>(width);
    unfinished = queries + floats((shape.num_heads * length + kTileRows) * plan.padded_dim);
    states = unfinished + aligned(sizeof(std::atomic<int64_t>) * static_cast<size_t>(blocks));
    workspaces = states + floats(states_needed * plan.state_floats);
    workspace_size = aligned(workspace_bytes(plan.rows, plan.padded_dim));
    total = workspaces + workspace_size * width;
  }
};

const AttentionKernels& chosen_kernels(CacheType type) {
  const auto index = static_cast<size_t>(type);
#if defined(__x86_64__)
  if (instruction_set() == InstructionSet::kAVX512) {
    // Intel's processors multiply bfloat16 at half the rate of AMD's, slower than float32.
    static const bool fast_bfloat16 = is_amd() && has_avx512_bf16();
    return fast_bfloat16 ? avx512_bf16::kAttention[index] : avx512::kAttention[index];
  }
  if (instruction_set() >= InstructionSet::kAVX2) return avx2::kAttention[index];
#elif defined(__aarch64__)
  if (instruction_set() == InstructionSet::kNEON) return neon::kAttention[index];
#endif
  return scalar::kAttention[index];
}

}  // namespace

std::string_view attention_shape_error(const AttentionShape& shape) {
  if (shape.kv_heads < 1 || shape.num_heads < 1 || shape.num_heads % shape.kv_heads != 0) {
    return "the number of query heads must be a multiple of the number of KV heads";
  }
  if (shape.head_dim < 8 || shape.head_dim > 256 || shape.head_dim % 8 != 0) {
    return "the head dimension must be a multiple of 8 from 8 to 256";
  }
  if (shape.rope_dim < 0 || shape.rope_dim > shape.head_dim || shape.rope_dim % 2 != 0) {
    return "the number of rotated values must be even and at most the head dimension";
  }
  return {};
}

size_t attention_scratch_bytes(const AttentionShape& shape, CacheType, int64_t length, int64_t past, size_t width) {
  return ScratchLayout(shape, Plan(shape, length, past), length, width).total;
}

void attention_with(const AttentionKernels& kernels, const AttentionShape& shape, const double* inv_freq,
                    const AttentionInput& input, const KVCache& cache, float* output, Parallel& parallel,
                    std::byte* scratch) {
  const Plan plan(shape, input.length, input.past);
  const ScratchLayout layout(shape, plan, input.length, parallel.width());
  auto* queries = reinterpret_cast<float*>(scratch + layout.queries);
  auto* unfinished = reinterpret_cast<std::atomic<int64_t>*>(scratch + layout.unfinished);
  auto* states = reinterpret_cast<float*>(scratch + layout.states);

  // The last block's rows are padded with these; every other block's with rows of the next.
  std::fill_n(queries + shape.num_heads * input.length * plan.padded_dim, kTileRows * plan.padded_dim, 0.0f);
  const AttentionCall call{shape, inv_freq, input, cache, queries, plan.padded_dim};
  const int64_t token_items = (input.length + kTokensPerItem - 1) / kTokensPerItem;
  for_each_item(parallel, static_cast<size_t>(token_items), [&](size_t, size_t item) {
    const int64_t first = static_cast<int64_t>(item) * kTokensPerItem;
    kernels.prepare(call, first, std::min(first + kTokensPerItem, input.length));
  });

  const int64_t blocks = shape.kv_heads * plan.query_blocks;
  for (int64_t i = 0; i < blocks; i++) std::construct_at(unfinished + i, plan.splits);
  const size_t element_bytes = cache.type == CacheType::kFloat16 ? 2 : 4;

  const auto work = [&](size_t slot, int64_t item) {
    const int64_t block_index = item / plan.splits, split = item % plan.splits;
    const int64_t kv_head = block_index % shape.kv_heads;
    // The last queries see the most positions. They come first, so that no thread is left with a long item at the end.
    const int64_t query_block = plan.query_blocks - 1 - block_index / shape.kv_heads;
    const int64_t first_query = query_block * plan.queries_per_block;
    const int64_t last_query = std::min(first_query + plan.queries_per_block, input.length);
    const size_t head_bytes = static_cast<size_t>(cache.capacity * shape.head_dim) * element_bytes;
    const int64_t state_index = plan.splits > 1 ? item : static_cast<int64_t>(slot);
    const AttentionBlock block{
        .queries = queries + (kv_head * input.length + first_query) * plan.group * plan.padded_dim,
        .rows = (last_query - first_query) * plan.group,
        .group = plan.group,
        .head_dim = shape.head_dim,
        .padded_dim = plan.padded_dim,
        .keys = static_cast<const std::byte*>(cache.keys) + static_cast<size_t>(kv_head) * head_bytes,
        .values = static_cast<const std::byte*>(cache.values) + static_cast<size_t>(kv_head) * head_bytes,
        .first_position = input.past + first_query,
        .begin = split * plan.positions_per_split,
        .end = std::min((split + 1) * plan.positions_per_split, input.past + last_query),
        .state = plan.state(states, state_index),
        .workspace = scratch + layout.workspaces + slot * layout.workspace_size,
    };
    std::fill_n(block.state.max, plan.padded_rows, -FLT_MAX);
    std::fill_n(block.state.sum, plan.padded_rows, 0.0f);
    std::fill_n(block.state.output, plan.padded_rows * plan.padded_dim, 0.0f);
    if (block.begin < block.end) (plan.streamed ? kernels.attend_rows : kernels.attend_tiles)(block);

    // Whoever ends a block's last split merges them all.
    if (unfinished[block_index].fetch_sub(1, std::memory_order_acq_rel) != 1) return;
    const int64_t first_state = plan.splits > 1 ? block_index * plan.splits : state_index;
    for (int64_t row = 0; row < block.rows; row++) {
      const int64_t query = first_query + row / plan.group, head = kv_head * plan.group + row % plan.group;
      kernels.merge(plan.state(states, first_state), row, plan.splits, plan.state_floats, plan.padded_dim,
                    shape.head_dim, output + (query * shape.num_heads + head) * shape.head_dim);
    }
  };
  for_each_item(parallel, static_cast<size_t>(blocks * plan.splits),
                [&](size_t slot, size_t item) { work(slot, static_cast<int64_t>(item)); });
}

void attention(const AttentionShape& shape, const double* inv_freq, const AttentionInput& input, const KVCache& cache,
               float* output, Parallel& parallel, std::byte* scratch) {
  attention_with(chosen_kernels(cache.type), shape, inv_freq, input, cache, output, parallel, scratch);
}

}  // namespace llama3
