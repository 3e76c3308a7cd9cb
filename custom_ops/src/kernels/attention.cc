// Splits attention into work items and merges their results. An item is a KV head of a row, a block of queries and a
// range of positions. Ranges keep many threads busy if there are few heads and queries, as for one token with a long
// context. The split of a row's positions depends on that row alone, and the partial softmaxes merge in the order of
// the positions, so the result does not depend on other rows or on the number of threads.
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

// Items per row: one for each of 64 threads. More would cost time: each leaves a partial state in memory, and the KV
// cache pushes it out of the processor's caches before the merge.
constexpr int64_t kItems = 64;
// A range of fewer positions is not worth an item.
constexpr int64_t kMinSplitStreamed = 128, kMinSplitTiled = 512;
// Rows of a tiled block. At this number, repacking its keys and values is 3% of a block's work, and its queries and
// outputs stay in the second-level cache.
constexpr int64_t kRowsTiled = 256;
// Tokens that one task rotates at a time.
constexpr int64_t kTokensPerItem = 8;
// Rows go through the two steps as a group, with one wait in between, as long as their queries and partial states fit
// in this much memory. A group of this size has enough work for every thread.
constexpr size_t kGroupBytes = size_t{16} << 20;

constexpr size_t aligned(size_t bytes) { return (bytes + 63) / 64 * 64; }
constexpr size_t float_bytes(int64_t count) { return aligned(sizeof(float) * static_cast<size_t>(count)); }

int64_t ceil_divide(int64_t a, int64_t b) { return (a + b - 1) / b; }

// How one row is split.
struct Plan {
  int64_t group, padded_dim;
  bool streamed;
  int64_t queries_per_block, blocks;  // one block per KV head and this many queries
  int64_t splits, positions_per_split;
  int64_t rows, padded_rows;  // of a block
  int64_t state_floats;       // of one state of a block
  size_t query_bytes, unfinished_bytes, state_bytes;

  Plan(const AttentionShape& shape, int64_t length, int64_t past)
      : group(shape.num_heads / shape.kv_heads),
        padded_dim(round_up(shape.head_dim, kDimMultiple)),
        streamed(length <= kMaxQueriesStreamed) {
    queries_per_block = streamed ? length : std::clamp<int64_t>(kRowsTiled / group, 1, length);
    blocks = shape.kv_heads * ceil_divide(length, queries_per_block);
    const int64_t depth = past + length;
    const int64_t most_splits = std::max<int64_t>(1, kItems / blocks);
    const int64_t least_positions = streamed ? kMinSplitStreamed : kMinSplitTiled;
    positions_per_split = round_up(std::max(ceil_divide(depth, most_splits), least_positions), kTilePositions);
    splits = ceil_divide(depth, positions_per_split);
    rows = queries_per_block * group;
    padded_rows = streamed ? rows : round_up(rows, kTileRows);
    state_floats = round_up(padded_rows * (2 + padded_dim), 16);
    query_bytes = float_bytes((shape.num_heads * length + kTileRows) * padded_dim);
    unfinished_bytes = aligned(sizeof(std::atomic<int64_t>) * static_cast<size_t>(blocks));
    // A block that is not split needs its state only while a task works on it, so one per slot is enough.
    state_bytes = splits > 1 ? float_bytes(blocks * splits * state_floats) : 0;
  }

  size_t bytes() const { return query_bytes + unfinished_bytes + state_bytes; }
  int64_t items() const { return blocks * splits; }

  // Return the state at `index` states after `base`.
  SoftmaxState state(float* base, int64_t index) const {
    float* output = base + index * state_floats;
    float* max = output + padded_rows * padded_dim;
    return {max, max + padded_rows, output};
  }
};

// A row in progress.
struct RowWork {
  const AttentionRow& row;
  Plan plan;
  float* queries;
  std::atomic<int64_t>* unfinished;  // splits of each block that are not done
  float* states;
  // Where its token items and its items end, among those of the group.
  int64_t token_items_end, items_end;
};

// Call visit(first, last, bytes) for each group of rows.
template <class Visit>
void for_each_group(const AttentionShape& shape, std::span<const AttentionRow> rows, Visit&& visit) {
  size_t first = 0, bytes = 0;
  for (size_t i = 0; i < rows.size(); i++) {
    const size_t row_bytes = Plan(shape, rows[i].length, rows[i].past).bytes();
    if (i > first && bytes + row_bytes > kGroupBytes) {
      visit(first, i, bytes);
      first = i;
      bytes = 0;
    }
    bytes += row_bytes;
  }
  if (first < rows.size()) visit(first, rows.size(), bytes);
}

// The offsets of the parts of the scratch memory, each aligned to 64 bytes.
struct ScratchLayout {
  size_t group;                         // of the group's rows
  size_t slots, state_size, slot_size;  // a slot is a state and a workspace
  size_t total;

  ScratchLayout(const AttentionShape& shape, std::span<const AttentionRow> rows, size_t width) {
    size_t most_rows = 0, group_bytes = 0, workspace_size = 0;
    for_each_group(shape, rows, [&](size_t first, size_t last, size_t bytes) {
      most_rows = std::max(most_rows, last - first);
      group_bytes = std::max(group_bytes, bytes);
    });
    state_size = 0;
    for (const AttentionRow& row : rows) {
      const Plan plan(shape, row.length, row.past);
      if (plan.splits == 1) state_size = std::max(state_size, float_bytes(plan.state_floats));
      workspace_size = std::max(workspace_size, aligned(workspace_bytes(plan.rows, plan.padded_dim)));
    }
    slot_size = state_size + workspace_size;
    group = aligned(sizeof(RowWork) * most_rows);
    slots = group + group_bytes;
    total = slots + slot_size * width;
  }
};

const AttentionKernels& chosen_kernels(CacheType type) {
  const auto index = static_cast<size_t>(type);
#if defined(__x86_64__)
  if (instruction_set() == InstructionSet::kAVX512) {
    // Intel processors multiply bfloat16 at half the rate of AMD's, slower than float32.
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

size_t attention_scratch_bytes(const AttentionShape& shape, std::span<const AttentionRow> rows, size_t width) {
  return ScratchLayout(shape, rows, width).total;
}

void attention_with(const AttentionKernels& kernels, const AttentionShape& shape, CacheType type,
                    const double* inv_freq, std::span<const AttentionRow> rows, Parallel& parallel,
                    std::byte* scratch) {
  const ScratchLayout layout(shape, rows, parallel.width());
  const size_t element_bytes = type == CacheType::kFloat16 ? 2 : 4;
  auto* const works = reinterpret_cast<RowWork*>(scratch);

  const auto prepare = [&](const RowWork& work, int64_t first_token) {
    const AttentionStart start{shape, inv_freq, work.row, work.queries, work.plan.padded_dim};
    kernels.prepare(start, first_token, std::min(first_token + kTokensPerItem, work.row.length));
  };

  const auto attend = [&](const RowWork& work, size_t slot, int64_t item) {
    const AttentionRow& row = work.row;
    const Plan& plan = work.plan;
    std::byte* const slot_memory = scratch + layout.slots + slot * layout.slot_size;
    const int64_t block_index = item / plan.splits, split = item % plan.splits;
    const int64_t kv_head = block_index % shape.kv_heads;
    // The last queries see the most positions. They come first, so no thread has a long item left at the end.
    const int64_t query_block = (plan.blocks - 1 - block_index) / shape.kv_heads;
    const int64_t first_query = query_block * plan.queries_per_block;
    const int64_t last_query = std::min(first_query + plan.queries_per_block, row.length);
    const size_t head_offset = static_cast<size_t>(kv_head * row.capacity * shape.head_dim) * element_bytes;
    float* const states = plan.splits > 1 ? work.states : reinterpret_cast<float*>(slot_memory);
    const AttentionBlock block{
        .queries = work.queries + (kv_head * row.length + first_query) * plan.group * plan.padded_dim,
        .rows = (last_query - first_query) * plan.group,
        .group = plan.group,
        .head_dim = shape.head_dim,
        .padded_dim = plan.padded_dim,
        .keys = static_cast<const std::byte*>(row.keys) + head_offset,
        .values = static_cast<const std::byte*>(row.values) + head_offset,
        .first_position = row.past + first_query,
        .begin = split * plan.positions_per_split,
        .end = std::min((split + 1) * plan.positions_per_split, row.past + last_query),
        .state = plan.state(states, plan.splits > 1 ? item : 0),
        .workspace = slot_memory + layout.state_size,
    };
    std::fill_n(block.state.max, plan.padded_rows, -FLT_MAX);
    std::fill_n(block.state.sum, plan.padded_rows, 0.0f);
    std::fill_n(block.state.output, plan.padded_rows * plan.padded_dim, 0.0f);
    if (block.begin < block.end) (plan.streamed ? kernels.attend_rows : kernels.attend_tiles)(block);

    // The task that finishes a block's last split merges all of them.
    if (work.unfinished[block_index].fetch_sub(1, std::memory_order_acq_rel) != 1) return;
    const SoftmaxState merged = plan.state(states, plan.splits > 1 ? block_index * plan.splits : 0);
    for (int64_t i = 0; i < block.rows; i++) {
      const int64_t query = first_query + i / plan.group, head = kv_head * plan.group + i % plan.group;
      kernels.merge(merged, i, plan.splits, plan.state_floats, plan.padded_dim, shape.head_dim,
                    row.output + (query * shape.num_heads + head) * shape.head_dim);
    }
  };

  for_each_group(shape, rows, [&](size_t first, size_t last, size_t) {
    std::byte* memory = scratch + layout.group;
    int64_t token_items = 0, items = 0;
    for (size_t i = first; i < last; i++) {
      const AttentionRow& row = rows[i];
      const Plan plan(shape, row.length, row.past);
      token_items += ceil_divide(row.length, kTokensPerItem);
      items += plan.items();
      RowWork* const work = std::construct_at(
          works + (i - first),
          RowWork{row, plan, reinterpret_cast<float*>(memory),
                  reinterpret_cast<std::atomic<int64_t>*>(memory + plan.query_bytes),
                  reinterpret_cast<float*>(memory + plan.query_bytes + plan.unfinished_bytes), token_items, items});
      memory += plan.bytes();
      for (int64_t block = 0; block < plan.blocks; block++) std::construct_at(work->unfinished + block, plan.splits);
      // These pad the last block's rows; rows of the next block pad those of the others.
      std::fill_n(work->queries + shape.num_heads * row.length * plan.padded_dim, kTileRows * plan.padded_dim, 0.0f);
    }
    // Call run(work, slot, index within the row) for each of the group's items. A row's items end at `end`.
    const auto for_each = [&](int64_t count, int64_t RowWork::* end, auto&& run) {
      for_each_item(parallel, static_cast<size_t>(count), [&](size_t slot, size_t index) {
        const auto item = static_cast<int64_t>(index);
        const RowWork* work = std::upper_bound(works, works + (last - first), item,
                                               [&](int64_t value, const RowWork& other) { return value < other.*end; });
        run(*work, slot, work == works ? item : item - work[-1].*end);
      });
    };
    for_each(token_items, &RowWork::token_items_end,
             [&](const RowWork& work, size_t, int64_t item) { prepare(work, item * kTokensPerItem); });
    for_each(items, &RowWork::items_end, attend);
  });
}

void attention(const AttentionShape& shape, CacheType type, const double* inv_freq, std::span<const AttentionRow> rows,
               Parallel& parallel, std::byte* scratch) {
  attention_with(chosen_kernels(type), shape, type, inv_freq, rows, parallel, scratch);
}

}  // namespace llama3
