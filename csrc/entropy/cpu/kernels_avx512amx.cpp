// unsigned x signed bytes -> int32 (tdpbusd): tiles of 16 rows of 64 elements by 64 of 16 columns. Weights lie as those
// of avx512vnni do, so that products of few rows can be left to it.
#include <algorithm>
#include <cstring>
#include <memory>

#include "entropy/cpu/kernels.h"
#include "entropy/cpu/lanes_avx512.h"

namespace ccm {
namespace {

constexpr int32_t kRows = 16, kDepth = 64;  // of a tile of elements
constexpr int32_t kColumns = 32;            // of a panel of weights, two tiles wide
constexpr int32_t kQuad = 4;                // elements that lie together in a panel
constexpr int64_t kPanelRow = kColumns * kQuad;
constexpr int32_t kPass = 64;  // rows that are laid out at once

// Operand of ldtilecfg.
struct alignas(64) TileConfig {
  uint8_t palette = 1, start_row = 0, reserved[14] = {};
  uint16_t row_bytes[16] = {};
  uint8_t rows[16] = {};
};

// Up to 16 rows: their elements and what their sums begin with. Distances are in bytes.
struct Block {
  const uint8_t* elements;
  const uint8_t* last;  // of the last kDepth elements; see Elements
  const int32_t* init;
  int32_t* c;
  int64_t row, last_row, init_row;
  int32_t rows;
};

// Whether pointers lie `distance` bytes apart, one by one.
template <class T>
bool evenly_apart(const T* const* p, int32_t count, int64_t& distance) {
  const auto address = [p](int32_t i) { return reinterpret_cast<intptr_t>(p[i]); };
  distance = count > 1 ? address(1) - address(0) : 0;
  for (int32_t i = 2; i < count; ++i)
    if (address(i) - address(i - 1) != distance) return false;
  return true;
}

// How the elements of a pass are read: `taps` runs of `whole` tiles each, and after them, where a run is no multiple of
// kDepth, a tile of the run's last kDepth elements, zero where the tiles before it have been. There is one run then.
struct Elements {
  const int32_t* tap_offset;
  int32_t taps, whole;
  int64_t last_weights;  // where the weights of the last tile lie in a panel; 0: there is none
};

#define CCM_TWO_PRODUCTS(c0, c1, weights)    \
  _tile_loadd(6, (weights), kPanelRow);      \
  _tile_dpbusd(c0, 4, 6);                    \
  _tile_loadd(7, (weights) + 64, kPanelRow); \
  _tile_dpbusd(c1, 4, 7)

// One block by one panel or two.
template <int kPanels>
void one_block(const Elements& e, const Block& b, int32_t col, const int8_t* w, int64_t panel, int64_t ldc) {
  const int8_t* second = w + panel;
  _tile_loadd(0, b.init + col, b.init_row);
  _tile_loadd(1, b.init + col + 16, b.init_row);
  if (kPanels == 2) {
    _tile_loadd(2, b.init + col + 32, b.init_row);
    _tile_loadd(3, b.init + col + 48, b.init_row);
  }
  const auto multiply = [&](const uint8_t* elements, int64_t row, int64_t at) {
    _tile_loadd(4, elements, row);
    CCM_TWO_PRODUCTS(0, 1, w + at);
    if (kPanels == 2) {
      CCM_TWO_PRODUCTS(2, 3, second + at);
    }
  };
  int64_t at = 0;
  for (int32_t t = 0; t < e.taps; ++t)
    for (int32_t k = 0; k < e.whole; ++k, at += kDepth * kColumns)
      multiply(b.elements + e.tap_offset[t] + k * kDepth, b.row, at);
  if (e.last_weights) multiply(b.last, b.last_row, e.last_weights);
  int32_t* c = b.c + col;
  _tile_stored(0, c, ldc);
  _tile_stored(1, c + 16, ldc);
  if (kPanels == 2) {
    _tile_stored(2, c + 32, ldc);
    _tile_stored(3, c + 48, ldc);
  }
}

// Two blocks by one panel.
void two_blocks(const Elements& e, const Block& a, const Block& b, int32_t col, const int8_t* w, int64_t ldc) {
  _tile_loadd(0, a.init + col, a.init_row);
  _tile_loadd(1, a.init + col + 16, a.init_row);
  _tile_loadd(2, b.init + col, b.init_row);
  _tile_loadd(3, b.init + col + 16, b.init_row);
  const auto multiply = [w](const uint8_t* x, int64_t x_row, const uint8_t* y, int64_t y_row, int64_t at) {
    _tile_loadd(4, x, x_row);
    CCM_TWO_PRODUCTS(0, 1, w + at);
    _tile_loadd(5, y, y_row);
    _tile_dpbusd(2, 5, 6);
    _tile_dpbusd(3, 5, 7);
  };
  int64_t at = 0;
  for (int32_t t = 0; t < e.taps; ++t)
    for (int32_t k = 0; k < e.whole; ++k, at += kDepth * kColumns) {
      const int64_t from = e.tap_offset[t] + k * kDepth;
      multiply(a.elements + from, a.row, b.elements + from, b.row, at);
    }
  if (e.last_weights) multiply(a.last, a.last_row, b.last, b.last_row, e.last_weights);
  _tile_stored(0, a.c + col, ldc);
  _tile_stored(1, a.c + col + 16, ldc);
  _tile_stored(2, b.c + col, ldc);
  _tile_stored(3, b.c + col + 16, ldc);
}

#undef CCM_TWO_PRODUCTS

// Sums of up to kPass rows.
void pass(const GemmArgs& g, int32_t first, int32_t count) {
  const int32_t depth = g.taps * g.k, tile_depth = std::min(depth, kDepth);
  const int32_t blocks = (count + kRows - 1) / kRows;
  const int64_t panel = static_cast<int64_t>(depth) * kColumns, ldc = g.ldc * static_cast<int64_t>(sizeof *g.c);
  Block block[kPass / kRows];
  bool in_place = g.k % kDepth == 0 || g.taps == 1;
  for (int32_t b = 0; b < blocks; ++b) {
    const int32_t begin = first + count * b / blocks, end = first + count * (b + 1) / blocks;
    Block& to = block[b];
    to = {static_cast<const uint8_t*>(g.a[begin]), nullptr, g.init[begin], g.c + begin * g.ldc, 0, 0, 0, end - begin};
    in_place &= evenly_apart(g.a + begin, to.rows, to.row);
    if (evenly_apart(g.init + begin, to.rows, to.init_row)) continue;
    for (int32_t m = 0; m < to.rows; ++m)
      std::memcpy(to.c + m * g.ldc, g.init[begin + m], static_cast<size_t>(g.n_pad) * sizeof *g.c);
    to.init = to.c;
    to.init_row = ldc;
  }
  const int32_t none = 0, rest = depth % tile_depth;
  Elements e{g.tap_offset, g.taps, g.k / tile_depth, 0};
  std::unique_ptr<uint8_t[]> rows, lasts;
  if (!in_place) {
    rows.reset(new uint8_t[static_cast<size_t>(count) * depth]);
    uint8_t* to = rows.get();
    for (int32_t b = 0, m = first; b < blocks; ++b) {
      block[b].elements = to;
      block[b].row = depth;
      for (int32_t i = 0; i < block[b].rows; ++i, ++m)
        for (int32_t t = 0; t < g.taps; ++t, to += g.k)
          std::memcpy(to, static_cast<const uint8_t*>(g.a[m]) + g.tap_offset[t], g.k);
    }
    e = {&none, 1, depth / tile_depth, 0};
  }
  if (rest) {
    e.last_weights = static_cast<int64_t>(depth - kDepth) * kColumns;
    lasts.reset(new uint8_t[static_cast<size_t>(count) * kDepth]());
    uint8_t* to = lasts.get();
    for (int32_t b = 0; b < blocks; ++b) {
      block[b].last = to;
      block[b].last_row = kDepth;
      for (int32_t i = 0; i < block[b].rows; ++i, to += kDepth)
        std::memcpy(to + kDepth - rest, block[b].elements + e.tap_offset[0] + i * block[b].row + depth - rest, rest);
    }
  }

  const auto configure = [tile_depth](int32_t rows_of_first, int32_t rows_of_second) {
    TileConfig config;
    for (int t = 0; t < 8; ++t) config.row_bytes[t] = 64;
    config.row_bytes[4] = config.row_bytes[5] = static_cast<uint16_t>(tile_depth);
    config.rows[6] = config.rows[7] = static_cast<uint8_t>(tile_depth / kQuad);
    for (const int t : {0, 1, 4}) config.rows[t] = static_cast<uint8_t>(rows_of_first);
    for (const int t : {2, 3, 5}) config.rows[t] = static_cast<uint8_t>(rows_of_second);
    _tile_loadconfig(&config);
  };
  const auto* w = static_cast<const int8_t*>(g.w);
  for (int32_t b = 0; b < blocks; b += 2) {
    const bool two = b + 1 < blocks;
    configure(block[b].rows, block[two ? b + 1 : b].rows);
    for (int32_t col = 0; col < g.n_pad;) {
      const int8_t* from = w + panel * (col / kColumns);
      if (two) {
        two_blocks(e, block[b], block[b + 1], col, from, ldc);
        col += kColumns;
      } else if (col + 2 * kColumns <= g.n_pad) {
        one_block<2>(e, block[b], col, from, panel, ldc);
        col += 2 * kColumns;
      } else {
        one_block<1>(e, block[b], col, from, panel, ldc);
        col += kColumns;
      }
    }
  }
  // Other code has no tiles to save, and the system none to store.
  _tile_release();
}

void gemm_amx(const GemmArgs& g) {
  constexpr int32_t kLeastRows = 3;
  if (g.m < kLeastRows) return avx512vnni_kernels().gemm(g);
  for (int32_t first = 0; first < g.m; first += kPass) pass(g, first, std::min(kPass, g.m - first));
}

}  // namespace

const Kernels& avx512amx_kernels() {
  static const Kernels k{"avx512amx",        kIsaAvx512Amx,       kColumns,          kQuad,         1, gemm_amx,
                         relu8_bytes_avx512, leaky8_bytes_avx512, accumulate_avx512, rescale_avx512};
  return k;
}

}  // namespace ccm
