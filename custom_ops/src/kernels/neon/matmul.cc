// The driver of the NEON kernels: quantizes A, cuts the products into items and gives each to the kernel for it.
//
// Written for the dot product of Armv8.2 and held against the portable kernels in an emulator. No Arm processor was at
// hand, so that no choice here rests on a measured time: none prefetches, and the sizes are those that fit the caches
// of Neoverse and Cortex-A7x cores (64 KB and more).
#include <algorithm>
#include <cstring>
#include <utility>

#include "kernels/neon/floats.h"
#include "kernels/neon/format_kernels.h"
#include "kernels/work.h"

namespace llama3::neon {
namespace {

constexpr int64_t kMaxRowsStreamed = 8;  // rows of A up to which weights are streamed
constexpr int64_t kMaxPartRows = 512;    // rows of A at once: their sums of a strip fill 64 KB
constexpr int64_t kStripTiles = 4;       // tiles of 8 weight rows that are unpacked at once, 11 KB
constexpr int64_t kStripRows = kStripTiles * kTileRows;
constexpr int64_t kMinRangeColumns = 64;     // a range of columns pays for unpacking its weights again
constexpr int64_t kBytesPerItem = 64 << 10;  // streamed rows an item, at most
constexpr int64_t kSerialBytes = 16 << 10;   // a smaller job is not worth a second thread
constexpr int64_t kSerialValues = 16 << 10;  // likewise, activations to quantize

constexpr int64_t divide_up(int64_t a, int64_t b) { return (a + b - 1) / b; }

FormatKernels make_kernels(Format format) {
  switch (format) {
    case Format::kF32:
    case Format::kF16:
    case Format::kBF16:
      return {{}, nullptr, nullptr, dequantize_floats};
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
    case Format::kIQ1_S:
    case Format::kIQ1_M:
    case Format::kIQ2_XXS:
    case Format::kIQ2_XS:
    case Format::kIQ2_S:
    case Format::kIQ3_XXS:
    case Format::kIQ3_S:
    case Format::kNVFP4:
    case Format::kTQ1_0:
    case Format::kTQ2_0:
      return portable_kernels();
  }
  return {};
}

const FormatKernels& format_kernels(Format format) {
  struct Table {
    FormatKernels rows[kFormatCount];
    Table() {
      for (int i = 0; i < kFormatCount; i++) rows[i] = make_kernels(static_cast<Format>(i));
    }
  };
  static const Table table;
  return table.rows[static_cast<int>(format)];
}

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
  int64_t part_rows() const { return std::min(M, kMaxPartRows); }
  // One quantization of A.
  size_t columns() const { return static_cast<size_t>(super_blocks(K) * part_rows()); }
  size_t slot_bytes() const {
    if (streams()) return floats ? float_row_scratch_bytes(K) : 0;
    const size_t integers = kStripTiles * sizeof(Tile) + static_cast<size_t>(part_rows()) * kStripRows * sizeof(float);
    return std::max(integers, floats ? float_tile_scratch_bytes(part_rows()) : 0);
  }
};

// The two quantizations of A, each [super_blocks(K)][M], or null.
struct Columns {
  Column *per_256, *per_32;
  const Column* of(const Product& product) const { return scale_per_32(product.weight.format) ? per_32 : per_256; }
};

size_t scratch_bytes(std::span<const Product> products, int64_t M, Activations activations, size_t width) {
  const Job job(products, M, activations);
  return job.columns() * sizeof(Column) * (size_t{job.per_256} + size_t{job.per_32}) + job.slot_bytes() * width;
}

// Runs the items on the pool, or on this thread where waking another would cost more.
template <class Work>
void run_items(Parallel& parallel, bool serial, int64_t items, Work&& work) {
  if (serial)
    for (int64_t item = 0; item < items; item++) work(size_t{0}, static_cast<size_t>(item));
  else
    for_each_item(parallel, static_cast<size_t>(items), work);
}

// Calls work(slot, product, item) for the items of all products, items_of(product) each, in one list, so that a small
// product keeps no thread waiting.
template <class ItemsOf, class Work>
void run_items_of_products(const Job& job, Parallel& parallel, bool serial, ItemsOf&& items_of, Work&& work) {
  int64_t items = 0;
  for (const Product& product : job.products) items += items_of(product);
  run_items(parallel, serial, items, [&](size_t slot, size_t number) {
    auto item = static_cast<int64_t>(number);
    const Product* product = job.products.data();
    for (int64_t n; item >= (n = items_of(*product)); product++) item -= n;
    work(slot, *product, item);
  });
}

void quantize(const Job& job, const float* A, Parallel& parallel, const Columns& columns) {
  if (!columns.per_256 && !columns.per_32) return;
  run_items(parallel, job.M * job.K <= kSerialValues, super_blocks(job.K) * job.M, [&](size_t, size_t item) {
    const int64_t b = static_cast<int64_t>(item) / job.M, m = static_cast<int64_t>(item) % job.M;
    const float* values = A + m * job.K + b * kSuperBlock;
    const int count = static_cast<int>(std::min<int64_t>(kSuperBlock, job.K - b * kSuperBlock));
    if (columns.per_256) quantize_column(values, count, false, columns.per_256[item]);
    if (columns.per_32) quantize_column(values, count, true, columns.per_32[item]);
  });
}

// ---- Few rows of A

void stream_rows(const Job& job, const Product& product, const Column* columns, int64_t first, int64_t count) {
  const Matrix& weight = product.weight;
  for (int64_t m = 0; m < job.M; m += kMaxColumns) {
    const RowsCall call = {weight.format,
                           weight.data + static_cast<size_t>(first) * weight.row_bytes(),
                           weight.row_bytes(),
                           job.K,
                           columns + m,
                           job.M,
                           product.bias ? product.bias + first : nullptr,
                           product.output + m * weight.rows + first,
                           weight.rows};
    format_kernels(weight.format).rows[std::min<int64_t>(kMaxColumns, job.M - m) - 1](call, count);
  }
}

void multiply_streaming(const Job& job, const float* A, Parallel& parallel, const Columns& columns, std::byte* slots) {
  int64_t bytes = 0;
  for (const Product& product : job.products)
    bytes += static_cast<int64_t>(product.weight.row_bytes()) * product.weight.rows;
  const int64_t item_bytes = std::min(kBytesPerItem, bytes / (8 * static_cast<int64_t>(parallel.width())) + 1);
  const auto rows_per_item = [&](const Product& product) {
    return divide_up(divide_up(item_bytes, static_cast<int64_t>(product.weight.row_bytes())), 4) * 4;
  };
  const auto items_of = [&](const Product& product) { return divide_up(product.weight.rows, rows_per_item(product)); };
  run_items_of_products(job, parallel, bytes <= kSerialBytes, items_of,
                        [&](size_t slot, const Product& product, int64_t item) {
                          const int64_t first = item * rows_per_item(product);
                          const int64_t count = std::min(rows_per_item(product), product.weight.rows - first);
                          if (job.in_floats(product))
                            multiply_float_rows(product, format_kernels(product.weight.format).dequantize, first, count,
                                                A, job.M, slots + slot * job.slot_bytes());
                          else
                            stream_rows(job, product, columns.of(product), first, count);
                        });
}

// ---- Many rows of A

// The product of a strip of weight rows with columns first_column to end_column.
void multiply_strip(const Job& job, const Product& product, int64_t first_row, const Column* columns,
                    int64_t first_column, int64_t end_column, std::byte* scratch) {
  auto* tiles = reinterpret_cast<Tile*>(scratch);
  auto* sums = reinterpret_cast<float*>(scratch + kStripTiles * sizeof(Tile));  // [column][kStripRows]
  const Matrix& weight = product.weight;
  const FormatKernels& kernels = format_kernels(weight.format);
  const FormatInfo& layout = info(weight.format);
  const int64_t rows = std::min(kStripRows, weight.rows - first_row), count = end_column - first_column;
  const uint8_t* blocks = weight.data + static_cast<size_t>(first_row) * weight.row_bytes();

  std::memset(sums, 0, static_cast<size_t>(count * kStripRows) * sizeof(float));
  columns += first_column;
  for (int64_t k = 0; k < job.K; k += kSuperBlock, columns += job.M) {
    const int weights = static_cast<int>(std::min<int64_t>(kSuperBlock, job.K - k));
    for (int64_t row = 0; row < rows; row += kTileRows)
      pack_tile(kernels.unpack, weight.format, blocks + static_cast<size_t>(row) * weight.row_bytes(),
                weight.row_bytes(), static_cast<int>(std::min<int64_t>(kTileRows, rows - row)), weights,
                tiles[row / kTileRows]);
    for (int64_t column = 0; column < count; column += kTileColumns)
      for (int64_t row = 0; row < rows; row += kTileRows)
        kernels.tiles[std::min<int64_t>(kTileColumns, count - column) - 1](
            {&tiles[row / kTileRows], columns + column, weights, sums + column * kStripRows + row, kStripRows});
    blocks += kSuperBlock / layout.block_weights * layout.block_bytes;
  }
  for (int64_t column = 0; column < count; column++) {
    const float* of_column = sums + column * kStripRows;
    float* output = product.output + (first_column + column) * weight.rows + first_row;
    for (int64_t r = 0; r < rows; r++) output[r] = of_column[r] + (product.bias ? product.bias[first_row + r] : 0.0f);
  }
}

void multiply_tiled(const Job& job, const float* A, Parallel& parallel, const Columns& columns, std::byte* slots) {
  // Every thread should have some items to take: where there are too few strips, columns are cut into ranges.
  int64_t strips = 0;
  for (const Product& product : job.products) strips += divide_up(product.weight.rows, kStripRows);
  const int64_t wanted = parallel.width() > 1 ? 8 * static_cast<int64_t>(parallel.width()) : 1;
  const int64_t ranges = std::min(divide_up(wanted, strips), divide_up(job.M, kMinRangeColumns));
  const auto items_of = [&](const Product& product) {
    return job.in_floats(product) ? divide_up(product.weight.rows, kFloatTileRows)
                                  : divide_up(product.weight.rows, kStripRows) * ranges;
  };
  run_items_of_products(job, parallel, false, items_of, [&](size_t slot, const Product& product, int64_t item) {
    std::byte* scratch = slots + slot * job.slot_bytes();
    if (job.in_floats(product)) {
      const int64_t first = item * kFloatTileRows;
      multiply_float_tile(product, format_kernels(product.weight.format).dequantize, first,
                          std::min<int64_t>(kFloatTileRows, product.weight.rows - first), A, job.M, scratch);
      return;
    }
    const int64_t range = item % ranges;
    multiply_strip(job, product, item / ranges * kStripRows, columns.of(product), range * job.M / ranges,
                   (range + 1) * job.M / ranges, scratch);
  });
}

void multiply(std::span<const Product> products, const float* A, int64_t M, Activations activations, Parallel& parallel,
              std::byte* scratch) {
  const Job job(products, M, activations);
  auto* column = reinterpret_cast<Column*>(scratch);
  Columns columns = {};
  if (job.per_256) columns.per_256 = std::exchange(column, column + job.columns());
  if (job.per_32) columns.per_32 = std::exchange(column, column + job.columns());
  auto* slots = reinterpret_cast<std::byte*>(column);
  if (job.streams()) {
    quantize(job, A, parallel, columns);
    return multiply_streaming(job, A, parallel, columns, slots);
  }
  // Rows of A in nearly equal parts, so that no part is too small for tiles.
  const int64_t parts = divide_up(M, kMaxPartRows);
  Product shifted[kMaxProducts];
  for (int64_t part = 0; part < parts; part++) {
    const int64_t first = part * M / parts, end = (part + 1) * M / parts;
    for (size_t i = 0; i < products.size(); i++) {
      shifted[i] = products[i];
      shifted[i].output += first * products[i].weight.rows;
    }
    const Job rows({shifted, products.size()}, end - first, activations);
    quantize(rows, A + first * job.K, parallel, columns);
    multiply_tiled(rows, A + first * job.K, parallel, columns, slots);
  }
}

void dequantize(Format format, const uint8_t* row, int64_t count, float* out) {
  format_kernels(format).dequantize(format, row, count, out);
}

}  // namespace

const MatmulKernels kMatmul = {scratch_bytes, multiply, dequantize};

}  // namespace llama3::neon
