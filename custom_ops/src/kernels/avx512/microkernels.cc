// The tile kernels, compiled once for each set of traits that a format has.
#include "kernels/avx512/format_kernels.h"

namespace llama3::avx512 {
namespace {

template <TileTraits T>
constexpr TileKernel* kForColumns[kTileColumns] = {multiply_tiles<T, 1>, multiply_tiles<T, 2>, multiply_tiles<T, 3>,
                                                   multiply_tiles<T, 4>, multiply_tiles<T, 5>, multiply_tiles<T, 6>};

struct Row {
  TileTraits traits;
  TileKernel* const* kernels;
};

template <int kSubBlock, bool kSigned, Minima minima, bool kScalePer32>
constexpr Row row() {
  return {{kSubBlock, kSigned, minima, kScalePer32}, kForColumns<TileTraits{kSubBlock, kSigned, minima, kScalePer32}>};
}

constexpr Row kRows[] = {
    row<32, false, Minima::kInteger, false>(),  // q4_k, q5_k
    row<16, false, Minima::kInteger, false>(),  // q2_k
    row<16, true, Minima::kNone, false>(),      // q3_k, q6_k, iq1_m, iq2_xs, iq2_s
    row<32, true, Minima::kNone, false>(),      // iq4_xs, iq1_s, iq2_xxs, iq3, tq
    row<32, true, Minima::kNone, true>(),       // q4_0, q5_0, q8_0, iq4_nl, mxfp4
    row<32, false, Minima::kFloat, true>(),     // q4_1, q5_1
    row<16, true, Minima::kNone, true>(),       // nvfp4
};

}  // namespace

TileKernel* const* tile_kernels(const TileTraits& traits) {
  for (const Row& r : kRows)
    if (r.traits.sub_block == traits.sub_block && r.traits.is_signed == traits.is_signed &&
        r.traits.minima == traits.minima && r.traits.per_32 == traits.per_32)
      return r.kernels;
  return nullptr;
}

}  // namespace llama3::avx512
