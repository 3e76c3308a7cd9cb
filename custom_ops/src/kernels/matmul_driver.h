// The driver of the vector kernels: quantizes A, splits the products into items and passes each item to its kernel.
// Compiled once per instruction set, with internal linkage. A `Set` says what the instruction set has:
//
//   Simd                 vectors of floats, for matmul_floats.h
//   GemvActivations, GemmActivations   packed activations; may be the same type
//   Tile                 kTileRows weight rows x 256, unpacked
//   kGroups              tiles that a kernel multiplies at once
//   kMaxGemmM            most rows of A that it multiplies at once
//   kStripTiles          tiles unpacked at once: as many as fit in the first-level cache beside some activations
//   quantize_for_gemv(256 values, per_32, GemvActivations&), quantize_for_gemm(..., GemmActivations&)
//   kernels_for<format>() -> FormatKernels<...>, for each format except f32, f16 and bf16
#pragma once

#include <algorithm>
#include <cstring>

#include "kernels/matmul_calls.h"
#include "kernels/matmul_floats.h"
#include "kernels/matmul_kernels.h"
#include "kernels/work.h"

namespace llama3 {
namespace {

constexpr size_t align_64(size_t bytes) { return (bytes + 63) / 64 * 64; }

// A prefetcher of the next weights into the second-level cache. It fetches a line or two per call, so no kernel waits
// for many of them.
class Prefetcher {
 public:
  Prefetcher(const uint8_t* rows, size_t row_bytes, int64_t count, size_t bytes, int64_t calls)
      : row_(rows),
        row_bytes_(row_bytes),
        rows_left_(count),
        bytes_(bytes + 63),  // of a row; an unaligned row may touch one more line
        per_call_(divide_up(count * divide_up(static_cast<int64_t>(bytes_), 64), calls)) {}
  void some() {
    for (int64_t i = 0; i < per_call_ && rows_left_ > 0; i++) {
      __builtin_prefetch(row_ + at_, 0, 2);
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

// Run the items on the pool, or on this thread if waking another would cost more.
template <class Work>
inline void run_items(Parallel& parallel, bool serial, int64_t items, Work&& work) {
  if (serial)
    for (int64_t item = 0; item < items; item++) work(size_t{0}, static_cast<size_t>(item));
  else
    for_each_item(parallel, static_cast<size_t>(items), work);
}

// Items of several products are in one list, so threads do not wait for a small product to end.
struct Item {
  const Product* product;
  int64_t index;  // among the product's items
};
template <class ItemsOf>
inline int64_t count_items(std::span<const Product> products, ItemsOf&& items_of) {
  int64_t items = 0;
  for (const Product& product : products) items += items_of(product);
  return items;
}
template <class ItemsOf>
inline Item find_item(std::span<const Product> products, size_t number, ItemsOf&& items_of) {
  Item item = {products.data(), static_cast<int64_t>(number)};
  for (int64_t n; item.index >= (n = items_of(*item.product)); item.product++) item.index -= n;
  return item;
}

template <class Set>
class MatmulDriver {
 public:
  static size_t scratch_bytes(std::span<const Product> products, int64_t M, Activations activations, size_t width) {
    const Job job(products, M, activations);
    return job.quantized_bytes() * (size_t{job.per_256} + size_t{job.per_32}) + job.slot_bytes() * width;
  }

  static void multiply(std::span<const Product> products, const float* A, int64_t M, Activations activations,
                       Parallel& parallel, std::byte* scratch) {
    const Job job(products, M, activations);
    std::byte* const per_256 = job.per_256 ? scratch : nullptr;
    scratch += job.per_256 ? job.quantized_bytes() : 0;
    std::byte* const per_32 = job.per_32 ? scratch : nullptr;
    scratch += job.per_32 ? job.quantized_bytes() : 0;
    if (job.streams())
      return multiply_with_gemv(job, A, parallel, reinterpret_cast<GemvActivations*>(per_256),
                                reinterpret_cast<GemvActivations*>(per_32), scratch);
    // Split the rows of A into nearly equal parts, so no part is too small for tiles.
    const int64_t parts = divide_up(M, kMaxPartRows);
    Product shifted[kMaxProducts];
    for (int64_t part = 0; part < parts; part++) {
      const int64_t first = part * M / parts, end = (part + 1) * M / parts;
      for (size_t i = 0; i < products.size(); i++) {
        shifted[i] = products[i];
        shifted[i].output += first * products[i].weight.rows;
      }
      const Job rows({shifted, products.size()}, end - first, activations);
      multiply_with_gemm(rows, A + first * job.K, parallel, reinterpret_cast<GemmActivations*>(per_256),
                         reinterpret_cast<GemmActivations*>(per_32), scratch);
    }
  }

  static void dequantize(Format format, const uint8_t* row, int64_t count, float* out) {
    constexpr int64_t kPiece = 1024;  // a multiple of every block size
    alignas(64) float piece[kPiece];
    const FormatInfo& layout = info(format);
    for (int64_t begin = 0; begin < count; begin += kPiece) {
      const int64_t length = std::min(count - begin, kPiece);
      kernels_of(format).dequantize(row + begin / layout.block_weights * layout.block_bytes, length, piece);
      std::copy_n(piece, length, out + begin);
    }
  }

 private:
  using Simd = typename Set::Simd;
  using GemvActivations = typename Set::GemvActivations;
  using GemmActivations = typename Set::GemmActivations;
  using Tile = typename Set::Tile;
  using Kernels = FormatKernels<GemvActivations, Tile, GemmActivations>;

  static constexpr int64_t kMaxStreamedM = 8;   // up to this many rows of A stream weights; tiles are faster above
  static constexpr int64_t kMaxPartRows = 512;  // rows of A at once: their sums for 64 weight rows fill 128 KB
  static constexpr int64_t kStripRows = Set::kStripTiles * Set::kTileRows;
  static constexpr int64_t kCallRows = Set::kGroups * Set::kTileRows;
  static constexpr int64_t kMaxStrips = 4;   // strips per item; they share one read of the activations from a far cache
  static constexpr int64_t kMinRangeM = 48;  // at least, because every range of rows of A unpacks its weights again
  static constexpr int64_t kFloatTileRows = FloatTile<Simd>::kRows;
  static constexpr int64_t kBytesPerItem = 64 << 10;  // of streamed rows, at most
  static constexpr int64_t kSerialBytes = 16 << 10;   // a smaller job is not worth a second thread
  static constexpr int64_t kSerialValues = 16 << 10;  // the same for activations to quantize

  // Not inlined: it runs once, but every kernel is found through kernels_of.
  __attribute__((noinline)) static auto make_kernels() {
    return for_each_format([]<Format format>() -> Kernels {
      if constexpr (is_float(format))
        return {to_floats<Simd, FloatWeights<format>>};
      else
        return Set::template kernels_for<format>();
    });
  }

  static const Kernels& kernels_of(Format format) {
    static const auto table = make_kernels();
    return table[static_cast<size_t>(format)];
  }

  struct Job {
    std::span<const Product> products;
    Activations activations;
    int64_t K, M;
    bool per_256 = false, per_32 = false, floats = false;  // the forms of A that the products need

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
    bool streams() const { return M <= kMaxStreamedM; }
    int64_t part_rows() const { return std::min(M, kMaxPartRows); }
    // Return the bytes of one quantization of A.
    size_t quantized_bytes() const {
      const auto blocks = static_cast<size_t>(super_blocks(K) * part_rows());
      return blocks * (streams() ? sizeof(GemvActivations) : sizeof(GemmActivations));
    }
    size_t slot_bytes() const {
      if (streams()) return floats ? float_row_scratch_bytes(K) : 0;
      const auto sums = static_cast<size_t>(part_rows() * kMaxStrips * kStripRows) * sizeof(float);
      const size_t integers = Set::kStripTiles * sizeof(Tile) + sums;
      return align_64(std::max(integers, floats ? float_tile_scratch_bytes<Simd>(part_rows()) : 0));
    }
    // Return how many values block b of a row has: 256, or fewer at the end.
    int block_values(int64_t b) const { return static_cast<int>(std::min<int64_t>(K - b * kSuperBlock, kSuperBlock)); }
  };

  // Quantize block b of a row of A, padded with zeros at the row's end, into those of per_256 and per_32 that are not
  // null.
  template <class Block>
  static void quantize_block(const Job& job, const float* row, int64_t b,
                             void (*quantize)(const float* values, bool per_32, Block& block), Block* per_256,
                             Block* per_32, int64_t index) {
    const float* values = row + b * kSuperBlock;
    alignas(64) float padded[kSuperBlock];
    if (const int count = job.block_values(b); count < kSuperBlock) {
      std::fill(std::copy_n(values, count, padded), padded + kSuperBlock, 0.0f);
      values = padded;
    }
    if (per_256) quantize(values, false, per_256[index]);
    if (per_32) quantize(values, true, per_32[index]);
  }

  // ---- Few rows of A

  static void gemv_rows(const Job& job, const Product& product, const GemvActivations* A, int64_t first,
                        int64_t count) {
    const Matrix& weight = product.weight;
    const Kernels& kernels = kernels_of(weight.format);
    const int64_t blocks = super_blocks(job.K);
    for (int64_t m = 0; m < job.M; m += kMaxGemvM) {
      const int64_t rows = std::min<int64_t>(job.M - m, kMaxGemvM);
      const GemvCall<GemvActivations> call = {weight.data + static_cast<size_t>(first) * weight.row_bytes(),
                                              weight.row_bytes(),
                                              job.K,
                                              A + m * blocks,
                                              blocks,
                                              product.bias ? product.bias + first : nullptr,
                                              product.output + m * weight.rows + first,
                                              weight.rows};
      kernels.gemv[rows - 1](call, count);
    }
  }

  static void multiply_with_gemv(const Job& job, const float* A, Parallel& parallel, GemvActivations* per_256,
                                 GemvActivations* per_32, std::byte* slots) {
    const int64_t blocks = super_blocks(job.K);
    if (per_256 || per_32)
      run_items(parallel, job.M * job.K <= kSerialValues, job.M * blocks, [&](size_t, size_t item) {
        const auto index = static_cast<int64_t>(item);
        quantize_block(job, A + index / blocks * job.K, index % blocks, Set::quantize_for_gemv, per_256, per_32, index);
      });

    // Make items of equal size in bytes.
    int64_t bytes = 0;
    for (const Product& product : job.products)
      bytes += static_cast<int64_t>(product.weight.row_bytes()) * product.weight.rows;
    const int64_t item_bytes = std::min(bytes / (8 * static_cast<int64_t>(parallel.width())) + 1, kBytesPerItem);
    const auto rows_per_item = [&](const Product& product) {
      return divide_up(divide_up(item_bytes, static_cast<int64_t>(product.weight.row_bytes())), 4) * 4;
    };
    const auto items_of = [&](const Product& product) {
      return divide_up(product.weight.rows, rows_per_item(product));
    };
    run_items(parallel, bytes <= kSerialBytes, count_items(job.products, items_of), [&](size_t slot, size_t number) {
      const auto [product, index] = find_item(job.products, number, items_of);
      const Format format = product->weight.format;
      const int64_t first = index * rows_per_item(*product);
      const int64_t count = std::min(product->weight.rows - first, rows_per_item(*product));
      if (job.in_floats(*product))
        multiply_float_rows<Simd>(*product, kernels_of(format).dequantize, first, count, A, job.M,
                                  slots + slot * job.slot_bytes());
      else
        gemv_rows(job, *product, scale_per_32(format) ? per_32 : per_256, first, count);
    });
  }

  // ---- Many rows of A

  // Quantize all rows. The packed blocks b of all rows follow each other: [blocks][M].
  static void quantize_rows(const Job& job, const float* A, Parallel& parallel, GemmActivations* per_256,
                            GemmActivations* per_32) {
    constexpr int64_t kRowsPerItem = Set::kMaxGemmM;
    run_items(parallel, job.M * job.K <= kSerialValues, divide_up(job.M, kRowsPerItem), [&](size_t, size_t item) {
      const int64_t first = static_cast<int64_t>(item) * kRowsPerItem;
      for (int64_t m = first; m < std::min(first + kRowsPerItem, job.M); m++)
        for (int64_t b = 0; b < super_blocks(job.K); b++)
          quantize_block(job, A + m * job.K, b, Set::quantize_for_gemm, per_256, per_32, b * job.M + m);
    });
  }

  // A part of a product: up to kMaxStrips strips of weight rows, and a range of blocks of rows of A.
  struct TileItem {
    const Product* product;
    int64_t first_row, rows, first_block, end_block;
  };

  // Prefetch the activations that gemm multiplies two blocks from now into the first-level cache. With more than a few
  // hundred rows of A, they come from the third. Each of `calls` calls fetches a share of their lines.
  static void prefetch_activations(const GemmActivations* activations, int64_t width, int64_t bytes, int64_t call,
                                   int64_t calls) {
    const int64_t lines = divide_up(bytes, 64), begin = call * lines / calls, end = (call + 1) * lines / calls;
    for (int64_t m = 0; m < width; m++)
      for (int64_t line = begin; line < end; line++)
        __builtin_prefetch(reinterpret_cast<const uint8_t*>(activations + m) + line * 64);
  }

  // Copy sums [count][kStripRows] of some weight rows to the output, from row first_m on.
  static void write_output(const Product& product, int64_t first_row, int64_t rows, const float* sums, int64_t first_m,
                           int64_t count) {
    for (int64_t m = 0; m < count; m++, sums += kStripRows) {
      float* to = product.output + (first_m + m) * product.weight.rows + first_row;
      if (product.bias)
        for (int64_t r = 0; r < rows; r++) to[r] = sums[r] + product.bias[first_row + r];
      else
        std::memcpy(to, sums, static_cast<size_t>(rows) * sizeof(float));
    }
  }

  static void multiply_item(const Job& job, const RowBlocks& row_blocks, const TileItem& item,
                            const GemmActivations* activations, std::byte* scratch) {
    auto* tiles = reinterpret_cast<Tile*>(scratch);
    auto* all_sums = reinterpret_cast<float*>(scratch + Set::kStripTiles * sizeof(Tile));
    const Matrix& weight = item.product->weight;
    const Kernels& kernels = kernels_of(weight.format);
    const size_t row_bytes = weight.row_bytes();
    const size_t super_bytes = super_block_bytes(weight.format);
    const int64_t first_m = row_blocks.first(item.first_block);
    const int64_t strip_sums = (row_blocks.first(item.end_block) - first_m) * kStripRows;
    const int64_t blocks = super_blocks(job.K), strips = divide_up(item.rows, kStripRows);

    std::memset(all_sums, 0, static_cast<size_t>(strips * strip_sums) * sizeof(float));
    for (int64_t b = 0; b < blocks; b++, activations += job.M) {
      const int weights = job.block_values(b);
      const bool last = b + 1 == blocks;
      for (int64_t strip = 0; strip < strips; strip++) {
        const int64_t first_row = item.first_row + strip * kStripRows;
        const int64_t strip_rows = std::min(item.rows - strip * kStripRows, kStripRows);
        const uint8_t* rows =
            weight.data + static_cast<size_t>(first_row) * row_bytes + static_cast<size_t>(b) * super_bytes;
        const int64_t calls = divide_up(strip_rows, kCallRows);
        for (int64_t t = 0; t < calls * Set::kGroups; t++) {
          // A call's last tile may have no rows. It then repeats the first rows, and its sums are never read.
          const int64_t row = t * Set::kTileRows < strip_rows ? t * Set::kTileRows : 0;
          const int64_t valid = std::min<int64_t>(strip_rows - row, Set::kTileRows);
          kernels.pack_tile(rows + static_cast<size_t>(row) * row_bytes, row_bytes, static_cast<int>(valid), weights,
                            tiles[t]);
        }
        Prefetcher next(rows + super_bytes, row_bytes, last ? 0 : strip_rows, super_bytes,
                        (item.end_block - item.first_block) * calls);
        float* sums = all_sums + strip * strip_sums;
        int64_t m = first_m;
        for (int64_t block = item.first_block; block < item.end_block; block++) {
          const int64_t width = row_blocks.width_of(block);
          for (int64_t call = 0; call < calls; call++) {
            next.some();
            prefetch_activations(activations + m + 2 * width, width, kernels.activation_bytes, call, calls);
            kernels.gemm[width - 1](
                {tiles + call * Set::kGroups, activations + m, weights, sums + call * kCallRows, kStripRows});
          }
          // Write now: the stores reach memory while the next block is multiplied.
          if (last) write_output(*item.product, first_row, strip_rows, sums, m, width);
          m += width;
          sums += width * kStripRows;
        }
      }
    }
  }

  // How the products are split into items: by strips of weight rows and by ranges of rows of A.
  struct Cut {
    int64_t item_rows = kMaxStrips * kStripRows, ranges = 1;

    // Every thread should get several items.
    Cut(const Job& job, size_t width) {
      const int64_t wanted = width > 1 ? 8 * static_cast<int64_t>(width) : 1;
      const auto items = [&] {
        return count_items(job.products, [&](const Product& p) { return divide_up(p.weight.rows, item_rows); });
      };
      while (item_rows > kStripRows && items() < wanted) item_rows /= 2;
      ranges = std::min(divide_up(wanted, items()), divide_up(job.M, kMinRangeM));
    }
  };

  static void multiply_with_gemm(const Job& job, const float* A, Parallel& parallel, GemmActivations* per_256,
                                 GemmActivations* per_32, std::byte* slots) {
    const RowBlocks row_blocks(job.M, Set::kMaxGemmM);
    if (per_256 || per_32) quantize_rows(job, A, parallel, per_256, per_32);
    const Cut cut(job, parallel.width());
    const auto items_of = [&](const Product& product) {
      return job.in_floats(product) ? divide_up(product.weight.rows, kFloatTileRows)
                                    : divide_up(product.weight.rows, cut.item_rows) * cut.ranges;
    };
    const auto items = static_cast<size_t>(count_items(job.products, items_of));
    for_each_item(parallel, items, [&](size_t slot, size_t number) {
      const auto [product, index] = find_item(job.products, number, items_of);
      const Matrix& weight = product->weight;
      std::byte* scratch = slots + slot * job.slot_bytes();
      if (job.in_floats(*product)) {
        const int64_t first = index * kFloatTileRows;
        multiply_float_tile<Simd>(*product, kernels_of(weight.format).dequantize, first,
                                  std::min(weight.rows - first, kFloatTileRows), A, job.M, scratch);
        return;
      }
      const int64_t first = index / cut.ranges * cut.item_rows, range = index % cut.ranges;
      const TileItem item = {product, first, std::min(weight.rows - first, cut.item_rows),
                             range * row_blocks.count / cut.ranges, (range + 1) * row_blocks.count / cut.ranges};
      multiply_item(job, row_blocks, item, scale_per_32(weight.format) ? per_32 : per_256, scratch);
    });
  }
};

template <class Set>
inline constexpr MatmulKernels kMatmulOf = {MatmulDriver<Set>::scratch_bytes, MatmulDriver<Set>::multiply,
                                            MatmulDriver<Set>::dequantize};

}  // namespace
}  // namespace llama3
