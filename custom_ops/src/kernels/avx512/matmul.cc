// The driver of the AVX-512 kernels: quantizes A, cuts the products into items and gives each to the kernel for it.
#include "kernels/avx512/floats.h"
#include "kernels/avx512/format_kernels.h"
#include "kernels/avx512/quantize.h"
#include "kernels/matmul_kernels.h"
#include "kernels/work.h"

namespace llama3::avx512 {
namespace {

constexpr int64_t kMaxRowsStreamed = 8;  // rows of A up to which weights are streamed; tiles are faster above
constexpr int64_t kMaxPartRows = 512;    // rows of A at once: their sums of 64 weight rows fill 128 KB
constexpr int64_t kStripTiles = 4;       // tiles of 16 weight rows that are unpacked at once, 25 KB
constexpr int64_t kStripRows = kStripTiles * kTileRows;
constexpr int64_t kMaxStrips = 4;  // strips an item: the columns of a block come from a far cache once for all
constexpr int64_t kBytesPerItem = 64 << 10;  // streamed rows an item, at most
constexpr int64_t kSerialBytes = 16 << 10;   // a smaller job is not worth a second thread
constexpr int64_t kSerialValues = 16 << 10;  // likewise, activations to quantize

constexpr int64_t divide_up(int64_t a, int64_t b) { return (a + b - 1) / b; }
constexpr size_t align_64(size_t bytes) { return (bytes + 63) / 64 * 64; }

// Rows of A cut into nearly equal blocks of at most kTileColumns, the wider ones first.
struct ColumnBlocks {
  int64_t M, count, width, wider;
  explicit ColumnBlocks(int64_t rows)
      : M(rows), count(divide_up(rows, kTileColumns)), width(rows / count), wider(rows % count) {}
  int64_t first(int64_t block) const { return block * width + (block < wider ? block : wider); }
  int64_t width_of(int64_t block) const { return width + (block < wider); }
};

struct Job {
  std::span<const Product> products;
  Activations activations;
  int64_t K, M;
  bool per_256 = false, per_32 = false, floats = false;  // what the products need of A

  Job(std::span<const Product> all, int64_t rows, Activations mode)
      : products(all), activations(mode), K(all.front().weight.cols), M(rows) {
    for (const Product& product : all) {
      if (in_floats(product))
        floats = true;
      else
        (scale_per_32(product.weight.format) ? per_32 : per_256) = true;
    }
  }
  bool in_floats(const Product& product) const {
    return activations == Activations::kFloat32 || is_float(product.weight.format);
  }
  bool streams() const { return M <= kMaxRowsStreamed; }
  int64_t part_rows() const { return M < kMaxPartRows ? M : kMaxPartRows; }
  // One quantization of A.
  size_t quantized_bytes() const {
    const auto blocks = static_cast<size_t>(super_blocks(K) * part_rows());
    return blocks * (streams() ? sizeof(ActivationBlock) : sizeof(Column));
  }
  size_t slot_bytes() const {
    if (streams()) return floats ? float_row_scratch_bytes(K) : 0;
    const auto sums = static_cast<size_t>(part_rows()) * kMaxStrips * kStripRows * sizeof(float);
    const size_t integers = kStripTiles * sizeof(Tile) + sums;
    const size_t in_float = floats ? float_tile_scratch_bytes(part_rows()) : 0;
    return align_64(integers > in_float ? integers : in_float);
  }
};

size_t scratch_bytes(std::span<const Product> products, int64_t M, Activations activations, size_t width) {
  const Job job(products, M, activations);
  return job.quantized_bytes() * (size_t{job.per_256} + size_t{job.per_32}) + job.slot_bytes() * width;
}

// The values of block b of each row: 256, or fewer at the end.
int block_values(const Job& job, int64_t b) {
  const int64_t rest = job.K - b * kSuperBlock;
  return static_cast<int>(rest < kSuperBlock ? rest : kSuperBlock);
}

// Runs the items on the pool, or on this thread where waking another would cost more.
template <class Work>
void run_items(Parallel& parallel, bool serial, int64_t items, Work&& work) {
  if (serial)
    for (int64_t item = 0; item < items; item++) work(size_t{0}, static_cast<size_t>(item));
  else
    for_each_item(parallel, static_cast<size_t>(items), work);
}

// ---- Few rows of A

void stream_rows(const Job& job, const Product& product, const ActivationBlock* A, int64_t first, int64_t count) {
  const Matrix& weight = product.weight;
  const FormatKernels& kernels = format_kernels(weight.format);
  const int64_t blocks = super_blocks(job.K);
  for (int64_t m = 0; m < job.M; m += kMaxColumns) {
    const int64_t columns = job.M - m < kMaxColumns ? job.M - m : kMaxColumns;
    const RowsCall call = {weight.data + static_cast<size_t>(first) * weight.row_bytes(),
                           weight.row_bytes(),
                           job.K,
                           A + m * blocks,
                           blocks,
                           product.bias ? product.bias + first : nullptr,
                           product.output + m * weight.rows + first,
                           weight.rows};
    kernels.rows[columns - 1](call, count);
  }
}

void multiply_streaming(const Job& job, const float* A, Parallel& parallel, ActivationBlock* per_256,
                        ActivationBlock* per_32, std::byte* slots) {
  const int64_t blocks = super_blocks(job.K);
  if (per_256 || per_32)
    run_items(parallel, job.M * job.K <= kSerialValues, job.M * blocks, [&](size_t, size_t item) {
      const auto index = static_cast<int64_t>(item);
      const float* values = A + index / blocks * job.K + index % blocks * kSuperBlock;
      const int count = block_values(job, index % blocks);
      if (per_256) quantize_for_rows(values, count, false, per_256[index]);
      if (per_32) quantize_for_rows(values, count, true, per_32[index]);
    });

  // All products' rows in one list of items of equal bytes, so that a small one keeps no thread waiting.
  int64_t bytes = 0;
  for (const Product& product : job.products)
    bytes += static_cast<int64_t>(product.weight.row_bytes()) * product.weight.rows;
  const int64_t share = bytes / (8 * static_cast<int64_t>(parallel.width())) + 1;
  const int64_t item_bytes = share < kBytesPerItem ? share : kBytesPerItem;
  const auto rows_per_item = [&](const Product& product) {
    return divide_up(divide_up(item_bytes, static_cast<int64_t>(product.weight.row_bytes())), 4) * 4;
  };
  int64_t items = 0;
  for (const Product& product : job.products) items += divide_up(product.weight.rows, rows_per_item(product));
  run_items(parallel, bytes <= kSerialBytes, items, [&](size_t slot, size_t item) {
    auto index = static_cast<int64_t>(item);
    const Product* product = job.products.data();
    for (int64_t n; index >= (n = divide_up(product->weight.rows, rows_per_item(*product))); product++) index -= n;
    const int64_t first = index * rows_per_item(*product), rest = product->weight.rows - first;
    const int64_t count = rest < rows_per_item(*product) ? rest : rows_per_item(*product);
    const Format format = product->weight.format;
    if (job.in_floats(*product))
      multiply_float_rows(*product, format_kernels(format).dequantize, first, count, A, job.M,
                          slots + slot * job.slot_bytes());
    else
      stream_rows(job, *product, scale_per_32(format) ? per_32 : per_256, first, count);
  });
}

// ---- Many rows of A

// Columns of block b of all rows follow each other: [blocks][M].
void quantize_columns(const Job& job, const float* A, Parallel& parallel, Column* per_256, Column* per_32) {
  run_items(parallel, job.M * job.K <= kSerialValues, divide_up(job.M, kTileColumns), [&](size_t, size_t item) {
    const int64_t first = static_cast<int64_t>(item) * kTileColumns;
    for (int64_t m = first; m < first + kTileColumns && m < job.M; m++)
      for (int64_t b = 0; b < super_blocks(job.K); b++) {
        const float* values = A + m * job.K + b * kSuperBlock;
        if (per_256) quantize_for_tiles(values, block_values(job, b), false, per_256[b * job.M + m]);
        if (per_32) quantize_for_tiles(values, block_values(job, b), true, per_32[b * job.M + m]);
      }
  });
}

// A share of a product: weight rows, up to kMaxStrips strips of them, and a range of column blocks.
struct TileItem {
  const Product* product;
  int64_t first_row, rows, first_block, end_block;
};

// Asks for the weights that come next, a line or two at each call, so that unpacking them finds them in the second
// cache and no kernel waits behind many of them.
class Prefetcher {
 public:
  Prefetcher(const uint8_t* rows, size_t row_bytes, int64_t count, size_t bytes, int64_t calls)
      : row_(rows),
        row_bytes_(row_bytes),
        rows_left_(count),
        bytes_(bytes + 63),  // of a row: an unaligned one may begin a line more
        per_call_(divide_up(count * divide_up(static_cast<int64_t>(bytes_), 64), calls)) {}
  void some() {
    for (int64_t i = 0; i < per_call_ && rows_left_ > 0; i++) {
      _mm_prefetch(row_ + at_, _MM_HINT_T1);
      at_ += 64;
      if (at_ < bytes_) continue;
      at_ = 0;
      row_ += row_bytes_;
      rows_left_--;
    }
  }

 private:
  const uint8_t* row_;
  size_t row_bytes_;
  int64_t rows_left_;
  size_t bytes_, at_ = 0;
  int64_t per_call_;
};

// The columns that a kernel multiplies two calls from now, to the first cache: past a few hundred rows of A they come
// from the third. A share of the lines at each of `calls` calls.
void prefetch_columns(const Column* columns, int64_t width, int64_t call, int64_t calls) {
  const auto* bytes = reinterpret_cast<const uint8_t*>(columns);
  const auto size = width * static_cast<int64_t>(sizeof(Column));
  for (int64_t at = call * size / calls / 64 * 64; at < (call + 1) * size / calls; at += 64)
    _mm_prefetch(bytes + at, _MM_HINT_T0);
}

// Copies sums [columns][kStripRows] of some weight rows to the output's rows first_column and on.
void write_output(const Product& product, int64_t first_row, int64_t rows, const float* sums, int64_t first_column,
                  int64_t columns) {
  for (int64_t c = 0; c < columns; c++, sums += kStripRows) {
    float* to = product.output + (first_column + c) * product.weight.rows + first_row;
    if (product.bias)
      for (int64_t r = 0; r < rows; r++) to[r] = sums[r] + product.bias[first_row + r];
    else
      __builtin_memcpy(to, sums, static_cast<size_t>(rows) * sizeof(float));
  }
}

void multiply_item(const Job& job, const ColumnBlocks& column_blocks, const TileItem& item, const Column* columns,
                   std::byte* scratch) {
  auto* tiles = reinterpret_cast<Tile*>(scratch);
  auto* all_sums = reinterpret_cast<float*>(scratch + kStripTiles * sizeof(Tile));
  const Matrix& weight = item.product->weight;
  const FormatKernels& kernels = format_kernels(weight.format);
  const FormatInfo& layout = info(weight.format);
  const size_t row_bytes = weight.row_bytes();
  const auto super_bytes = static_cast<size_t>(kSuperBlock / layout.block_weights * layout.block_bytes);
  const int64_t first_column = column_blocks.first(item.first_block);
  const int64_t strip_sums = (column_blocks.first(item.end_block) - first_column) * kStripRows;
  const int64_t blocks = super_blocks(job.K), strips = divide_up(item.rows, kStripRows);

  __builtin_memset(all_sums, 0, static_cast<size_t>(strips * strip_sums) * sizeof(float));
  for (int64_t b = 0; b < blocks; b++, columns += job.M) {
    const int weights = block_values(job, b);
    const bool last = b + 1 == blocks;
    for (int64_t strip = 0; strip < strips; strip++) {
      const int64_t first_row = item.first_row + strip * kStripRows;
      const int64_t rest = item.rows - strip * kStripRows, strip_rows = rest < kStripRows ? rest : kStripRows;
      const uint8_t* rows =
          weight.data + static_cast<size_t>(first_row) * row_bytes + static_cast<size_t>(b) * super_bytes;
      const int64_t pairs = divide_up(strip_rows, kGroups * kTileRows);
      for (int64_t t = 0; t < pairs * kGroups; t++) {
        // A tile with no row of its own, the second of a pair, repeats the first rows; nobody reads its sums.
        const int64_t row = t * kTileRows < strip_rows ? t * kTileRows : 0;
        const int64_t valid = strip_rows - row < kTileRows ? strip_rows - row : kTileRows;
        kernels.pack_tile(rows + static_cast<size_t>(row) * row_bytes, row_bytes, static_cast<int>(valid), weights,
                          tiles[t]);
      }
      Prefetcher next(rows + super_bytes, row_bytes, last ? 0 : strip_rows, super_bytes,
                      (item.end_block - item.first_block) * pairs);
      float* sums = all_sums + strip * strip_sums;
      int64_t column = first_column;
      for (int64_t block = item.first_block; block < item.end_block; block++) {
        const int64_t width = column_blocks.width_of(block);
        for (int64_t pair = 0; pair < pairs; pair++) {
          next.some();
          prefetch_columns(columns + column + 2 * width, width, pair, pairs);
          kernels.tiles[width - 1](
              {tiles + pair * kGroups, columns + column, weights, sums + pair * kGroups * kTileRows, kStripRows});
        }
        // At once, so that the stores find their way to memory while the next block is multiplied.
        if (last) write_output(*item.product, first_row, strip_rows, sums, column, width);
        column += width;
        sums += width * kStripRows;
      }
    }
  }
}

// How the products are cut into items: rows of a strip or several, and ranges of columns.
struct Cut {
  int64_t item_rows, ranges;

  // Every thread should have some items to take.
  Cut(const Job& job, const ColumnBlocks& columns, size_t width) : item_rows(kMaxStrips * kStripRows), ranges(1) {
    const int64_t wanted = width > 1 ? 8 * static_cast<int64_t>(width) : 1;
    const auto items = [&] {
      int64_t count = 0;
      for (const Product& product : job.products) count += divide_up(product.weight.rows, item_rows);
      return count;
    };
    while (item_rows > kStripRows && items() < wanted) item_rows /= 2;
    const int64_t sensible = divide_up(columns.count, 8);  // a range pays for unpacking its weights again
    ranges = divide_up(wanted, items());
    if (ranges > sensible) ranges = sensible;
  }
};

void multiply_tiled(const Job& job, const float* A, Parallel& parallel, Column* per_256, Column* per_32,
                    std::byte* slots) {
  const ColumnBlocks columns(job.M);
  if (per_256 || per_32) quantize_columns(job, A, parallel, per_256, per_32);
  const Cut cut(job, columns, parallel.width());
  const auto items_of = [&](const Product& product) {
    return job.in_floats(product) ? divide_up(product.weight.rows, kFloatTileRows)
                                  : divide_up(product.weight.rows, cut.item_rows) * cut.ranges;
  };
  int64_t items = 0;
  for (const Product& product : job.products) items += items_of(product);
  for_each_item(parallel, static_cast<size_t>(items), [&](size_t slot, size_t number) {
    auto index = static_cast<int64_t>(number);
    const Product* product = job.products.data();
    for (int64_t n; index >= (n = items_of(*product)); product++) index -= n;
    const Matrix& weight = product->weight;
    std::byte* scratch = slots + slot * job.slot_bytes();
    if (job.in_floats(*product)) {
      const int64_t first = index * kFloatTileRows, rest = weight.rows - first;
      multiply_float_tile(*product, format_kernels(weight.format).dequantize, first,
                          rest < kFloatTileRows ? rest : kFloatTileRows, A, job.M, scratch);
      return;
    }
    const int64_t first = index / cut.ranges * cut.item_rows, rest = weight.rows - first, range = index % cut.ranges;
    const TileItem item = {product, first, rest < cut.item_rows ? rest : cut.item_rows,
                           range * columns.count / cut.ranges, (range + 1) * columns.count / cut.ranges};
    multiply_item(job, columns, item, scale_per_32(weight.format) ? per_32 : per_256, scratch);
  });
}

void multiply(std::span<const Product> products, const float* A, int64_t M, Activations activations, Parallel& parallel,
              std::byte* scratch) {
  const Job job(products, M, activations);
  std::byte* const per_256 = job.per_256 ? scratch : nullptr;
  scratch += job.per_256 ? job.quantized_bytes() : 0;
  std::byte* const per_32 = job.per_32 ? scratch : nullptr;
  scratch += job.per_32 ? job.quantized_bytes() : 0;
  if (job.streams())
    return multiply_streaming(job, A, parallel, reinterpret_cast<ActivationBlock*>(per_256),
                              reinterpret_cast<ActivationBlock*>(per_32), scratch);
  // Rows of A in nearly equal parts, so that no part is too small for tiles.
  const int64_t parts = divide_up(M, kMaxPartRows);
  Product shifted[kMaxProducts];
  for (int64_t part = 0; part < parts; part++) {
    const int64_t first = part * M / parts, end = (part + 1) * M / parts;
    for (size_t i = 0; i < products.size(); i++) {
      shifted[i] = products[i];
      shifted[i].output += first * products[i].weight.rows;
    }
    Job rows({shifted, products.size()}, end - first, activations);
    multiply_tiled(rows, A + first * job.K, parallel, reinterpret_cast<Column*>(per_256),
                   reinterpret_cast<Column*>(per_32), scratch);
  }
}

void dequantize(Format format, const uint8_t* row, int64_t count, float* out) {
  alignas(64) float piece[1024];
  const FormatInfo& layout = info(format);
  for (int64_t begin = 0; begin < count; begin += 1024) {
    const int64_t length = count - begin < 1024 ? count - begin : 1024;
    format_kernels(format).dequantize(row + begin / layout.block_weights * layout.block_bytes, length, piece);
    __builtin_memcpy(out + begin, piece, static_cast<size_t>(length) * sizeof(float));
  }
}

struct KernelTable {
  FormatKernels rows[kFormatCount];
};

FormatKernels make_kernels(Format format) {
  switch (format) {
    case Format::kF32:
      return {{}, nullptr, nullptr, dequantize_f32};
    case Format::kF16:
      return {{}, nullptr, nullptr, dequantize_f16};
    case Format::kBF16:
      return {{}, nullptr, nullptr, dequantize_bf16};
    case Format::kQ4_0:
      return q4_0_kernels();
    case Format::kQ4_1:
      return q4_1_kernels();
    case Format::kQ5_0:
      return q5_0_kernels();
    case Format::kQ5_1:
      return q5_1_kernels();
    case Format::kQ8_0:
      return q8_0_kernels();
    case Format::kQ2_K:
      return q2_k_kernels();
    case Format::kQ3_K:
      return q3_k_kernels();
    case Format::kQ4_K:
      return q4_k_kernels();
    case Format::kQ5_K:
      return q5_k_kernels();
    case Format::kQ6_K:
      return q6_k_kernels();
    case Format::kIQ4_NL:
      return iq4_nl_kernels();
    case Format::kIQ4_XS:
      return iq4_xs_kernels();
    case Format::kMXFP4:
      return mxfp4_kernels();
    case Format::kNVFP4:
      return nvfp4_kernels();
    case Format::kIQ1_S:
      return iq1_s_kernels();
    case Format::kIQ1_M:
      return iq1_m_kernels();
    case Format::kIQ2_XXS:
      return iq2_xxs_kernels();
    case Format::kIQ2_XS:
      return iq2_xs_kernels();
    case Format::kIQ2_S:
      return iq2_s_kernels();
    case Format::kIQ3_XXS:
      return iq3_xxs_kernels();
    case Format::kIQ3_S:
      return iq3_s_kernels();
    case Format::kTQ1_0:
      return tq1_0_kernels();
    case Format::kTQ2_0:
      return tq2_0_kernels();
  }
  return {};
}

}  // namespace

const FormatKernels& format_kernels(Format format) {
  static const KernelTable table = [] {
    KernelTable t;
    for (int i = 0; i < kFormatCount; i++) t.rows[i] = make_kernels(static_cast<Format>(i));
    return t;
  }();
  return table.rows[static_cast<int>(format)];
}

const MatmulKernels kMatmul = {scratch_bytes, multiply, dequantize};

}  // namespace llama3::avx512
