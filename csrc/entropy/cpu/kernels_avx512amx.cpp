// unsigned x signed bytes -> int32 (tdpbusd): tiles of 16 rows of 64 elements by 64 of 16 columns. Weights lie as those
// of avx512vnni do, so that products of few rows can be left to it.
#include <algorithm>
#include <cstring>
#include <memory>

#include "entropy/cpu/choose_rows.h"
#include "entropy/cpu/kernels.h"
#include "entropy/cpu/lanes_avx512.h"
#include "format/schedule.h"

namespace ccm {
namespace {

constexpr int32_t kRows = 16, kDepth = 64;  // of a tile of elements
constexpr int32_t kColumns = 32;            // of a panel of weights, two tiles wide
constexpr int32_t kQuad = 4;                // elements that lie together in a panel
constexpr int64_t kPanelRow = kColumns * kQuad;
constexpr int32_t kPass = kMostRows;  // rows that are laid out at once

// Operand of ldtilecfg.
struct alignas(64) TileConfig {
  uint8_t palette = 1, start_row = 0, reserved[14] = {};
  uint16_t row_bytes[16] = {};
  uint8_t rows[16] = {};
};

// Up to 16 rows: their elements, and what their sums begin with and where they go. Distances are in bytes.
struct Block {
  int32_t first, rows;
  const uint8_t* elements;
  const int32_t* tap_offset;
  const uint8_t* last;  // of the last kDepth elements; see Elements
  const int32_t* init;
  int32_t* c;
  int64_t row, last_row, init_row, c_row;
};

// What all blocks of a product have in common: their elements are read as `taps` runs of `whole` tiles each, and after
// them, where a run is no multiple of kDepth, a tile of the run's last kDepth elements, zero where the tiles before it
// have been. There is one run then.
struct Elements {
  int32_t taps, whole;
  int64_t last_weights;  // where the weights of the last tile lie in a panel; 0: there is none
};

// How many of `count` pointers from the first one on lie the same distance apart.
template <class T>
int32_t evenly_apart(const T* const* p, int32_t count, int64_t& distance) {
  const auto address = [p](int32_t i) { return reinterpret_cast<intptr_t>(p[i]); };
  distance = count > 1 ? address(1) - address(0) : 0;
  int32_t n = std::min(count, 2);
  while (n < count && address(n) - address(n - 1) == distance) ++n;
  return n;
}

#define CCM_TWO_PRODUCTS(c0, c1, weights)    \
  _tile_loadd(6, (weights), kPanelRow);      \
  _tile_dpbusd(c0, 4, 6);                    \
  _tile_loadd(7, (weights) + 64, kPanelRow); \
  _tile_dpbusd(c1, 4, 7)

// One block by one panel or two.
template <int kPanels>
void one_block(const Elements& e, const Block& b, int32_t col, const int8_t* w, int64_t panel) {
  const int8_t* second = w + panel;
  const int32_t* init = b.init + col;
  _tile_loadd(0, init, b.init_row);
  _tile_loadd(1, init + 16, b.init_row);
  if (kPanels == 2) {
    _tile_loadd(2, init + 32, b.init_row);
    _tile_loadd(3, init + 48, b.init_row);
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
      multiply(b.elements + b.tap_offset[t] + k * kDepth, b.row, at);
  if (e.last_weights) multiply(b.last, b.last_row, e.last_weights);
  int32_t* c = b.c + col;
  _tile_stored(0, c, b.c_row);
  _tile_stored(1, c + 16, b.c_row);
  if (kPanels == 2) {
    _tile_stored(2, c + 32, b.c_row);
    _tile_stored(3, c + 48, b.c_row);
  }
}

// Two blocks by one panel.
void two_blocks(const Elements& e, const Block& a, const Block& b, int32_t col, const int8_t* w) {
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
    for (int32_t k = 0; k < e.whole; ++k, at += kDepth * kColumns)
      multiply(a.elements + a.tap_offset[t] + k * kDepth, a.row, b.elements + b.tap_offset[t] + k * kDepth, b.row, at);
  if (e.last_weights) multiply(a.last, a.last_row, b.last, b.last_row, e.last_weights);
  _tile_stored(0, a.c + col, a.c_row);
  _tile_stored(1, a.c + col + 16, a.c_row);
  _tile_stored(2, b.c + col, b.c_row);
  _tile_stored(3, b.c + col + 16, b.c_row);
}

#undef CCM_TWO_PRODUCTS

// The product of up to kPass rows, which goes to g.c or, where `sums` is given, to its rows, which it begins with.
class Pass {
 public:
  Pass(const GemmArgs& g, int32_t first, int32_t count, int32_t* const* sums)
      : g_(g), sums_(sums), depth_(g.taps * g.k), tile_depth_(std::min(depth_, kDepth)), count_(count) {
    merged_ = g.taps > 1 && g.k % kDepth;
    elements_ = merged_ ? Elements{1, depth_ / tile_depth_, 0} : Elements{g.taps, g.k / tile_depth_, 0};
    for (int32_t t = 0; t < g.taps; ++t) gathered_offset_[t] = t * g.k;
    for (int32_t m = first; m < first + count; m += block_[blocks_++].rows) lay_out(block_[blocks_], m, first + count);
    if (depth_ % tile_depth_) last_elements();
  }

  void run() {
    const int64_t panel = static_cast<int64_t>(depth_) * kColumns;
    const auto* w = static_cast<const int8_t*>(g_.w);
    for (int32_t col = 0; col < g_.n_pad; col += 2 * kColumns, w += 2 * panel) {
      const bool both = col + kColumns < g_.n_pad;
      // Each panel is read from far away once.
      for (int32_t b = 0; b < blocks_; b += 2) {
        const Block &one = block_[b], &two = block_[std::min(b + 1, blocks_ - 1)];
        configure(one.rows, two.rows);
        if (b + 1 < blocks_) {
          two_blocks(elements_, one, two, col, w);
          if (both) two_blocks(elements_, one, two, col + kColumns, w + panel);
        } else if (both) {
          one_block<2>(elements_, one, col, w, panel);
        } else {
          one_block<1>(elements_, one, col, w, panel);
        }
      }
    }
    // Other code has no tiles to save, and the system none to store.
    _tile_release();
    for (int32_t b = 0; b < blocks_; ++b)
      for (int32_t m = 0; m < block_[b].rows && is_scattered(block_[b]); ++m)
        std::memcpy(sums_[block_[b].first + m], block_[b].c + static_cast<int64_t>(m) * g_.n_pad, row_bytes());
  }

 private:
  static constexpr int32_t kLeastRows = 4;  // of a block that ends early so that its rows need not be copied

  size_t row_bytes() const { return static_cast<size_t>(g_.n_pad) * sizeof(int32_t); }
  bool is_scattered(const Block& b) const { return sums_ && b.c != sums_[b.first]; }

  void lay_out(Block& b, int32_t first, int32_t end) {
    const int32_t most = std::min(kRows, end - first);
    b.first = first;
    b.rows = evenly_apart(g_.a + first, most, b.row);
    int32_t even = most;
    if (sums_) even = evenly_apart(sums_ + first, most, b.c_row);
    const bool as_they_lie = std::min(b.rows, even) >= std::min(kLeastRows, most);
    b.rows = as_they_lie ? std::min(b.rows, even) : most;
    b.tap_offset = merged_ ? gathered_offset_ : g_.tap_offset;
    b.elements = static_cast<const uint8_t*>(g_.a[first]);
    if (!as_they_lie || merged_) gather(b);
    if (!sums_) {
      b.c = g_.c + first * g_.ldc;
      b.c_row = g_.ldc * static_cast<int64_t>(sizeof(int32_t));
      b.init = g_.init[first];
      if (evenly_apart(g_.init + first, b.rows, b.init_row) < b.rows) begin_with(b, g_.init);
    } else if (as_they_lie) {
      b.init = b.c = sums_[first];
      b.init_row = b.c_row;
    } else {
      if (!scattered_) scattered_.reset(new int32_t[static_cast<size_t>(kPass) * g_.n_pad]);
      b.c = scattered_.get() + static_cast<int64_t>(used_) * g_.n_pad;
      b.c_row = static_cast<int64_t>(row_bytes());
      used_ += b.rows;
      begin_with(b, sums_);
    }
  }

  template <class T>
  void begin_with(Block& b, T* const* rows) {
    for (int32_t m = 0; m < b.rows; ++m) std::memcpy(b.c + m * (b.c_row / 4), rows[b.first + m], row_bytes());
    b.init = b.c;
    b.init_row = b.c_row;
  }

  // Copies the elements of a block's rows to where they lie one after the other.
  void gather(Block& b) {
    if (!gathered_) gathered_.reset(new uint8_t[static_cast<size_t>(count_) * depth_]);
    uint8_t* to = gathered_.get() + static_cast<int64_t>(gathered_rows_) * depth_;
    gathered_rows_ += b.rows;
    b.elements = to;
    b.tap_offset = gathered_offset_;
    b.row = depth_;
    for (int32_t m = 0; m < b.rows; ++m)
      for (int32_t t = 0; t < g_.taps; ++t, to += g_.k)
        std::memcpy(to, static_cast<const uint8_t*>(g_.a[b.first + m]) + g_.tap_offset[t], g_.k);
  }

  void last_elements() {
    const int32_t rest = depth_ % tile_depth_;
    elements_.last_weights = static_cast<int64_t>(depth_ - kDepth) * kColumns;
    last_.reset(new uint8_t[static_cast<size_t>(count_) * kDepth]());
    uint8_t* to = last_.get();
    for (int32_t b = 0; b < blocks_; ++b) {
      Block& block = block_[b];
      block.last = to;
      block.last_row = kDepth;
      const uint8_t* from = block.elements + block.tap_offset[0] + depth_ - rest;
      for (int32_t m = 0; m < block.rows; ++m, to += kDepth)
        std::memcpy(to + kDepth - rest, from + m * block.row, rest);
    }
  }

  void configure(int32_t rows_of_first, int32_t rows_of_second) {
    if (config_.rows[0] == rows_of_first && config_.rows[2] == rows_of_second) return;
    for (int t = 0; t < 8; ++t) config_.row_bytes[t] = 64;
    config_.row_bytes[4] = config_.row_bytes[5] = static_cast<uint16_t>(tile_depth_);
    config_.rows[6] = config_.rows[7] = static_cast<uint8_t>(tile_depth_ / kQuad);
    for (const int t : {0, 1, 4}) config_.rows[t] = static_cast<uint8_t>(rows_of_first);
    for (const int t : {2, 3, 5}) config_.rows[t] = static_cast<uint8_t>(rows_of_second);
    _tile_loadconfig(&config_);
  }

  const GemmArgs& g_;
  int32_t* const* sums_;
  const int32_t depth_, tile_depth_, count_;
  bool merged_ = false;  // taps are no multiples of tiles: they are copied one after the other
  Elements elements_;
  int32_t gathered_offset_[kMaxTaps];
  Block block_[kPass / kLeastRows] = {};
  int32_t blocks_ = 0, gathered_rows_ = 0, used_ = 0;
  std::unique_ptr<uint8_t[]> gathered_, last_;
  std::unique_ptr<int32_t[]> scattered_;
  TileConfig config_;
};

void gemm_amx(const GemmArgs& g) {
  constexpr int32_t kLeastRows = 3;
  if (g.m < kLeastRows) return avx512vnni_kernels().gemm(g);
  for (int32_t first = 0; first < g.m; first += kPass) Pass(g, first, std::min(kPass, g.m - first), nullptr).run();
}

void add_amx(const GemmArgs& g, int32_t* const* sums) {
  for (int32_t first = 0; first < g.m; first += kPass) Pass(g, first, std::min(kPass, g.m - first), sums).run();
}

}  // namespace

const Kernels& avx512amx_kernels() {
  static const Kernels k = [] {
    Kernels kernels{{"avx512amx", kIsaAvx512Amx, kColumns, kQuad, 1},
                    gemm_amx,
                    relu8_bytes_avx512,
                    leaky8_bytes_avx512,
                    accumulate_avx512,
                    rescale_avx512,
                    choose_rows};
    kernels.rows_at_once = kPass;
    kernels.add = add_amx;
    return kernels;
  }();
  return k;
}

}  // namespace ccm
