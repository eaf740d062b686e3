// The packed model as the kernels read it: one relocatable block of bytes, made on the host from the CPU's packed
// model.
//
// Matrix products have the weights on the side of `mma.m16n8k32` with 16 rows (output channels) and positions on the
// side with 8 columns, because a step of the wavefront has 1 to 16 positions: 8 at a time waste less than 16 at a time.
// Weights lie in the order in which a warp's fragments hold them, so that a lane reads its 16 bytes with one load.
// Activations are unsigned bytes (value + zero point), weights signed ones, as in the CPU's VNNI kernels.
#pragma once
#include <cstdint>
#include <vector>

#include "model/layout.h"
#include "model/model.h"

namespace ccm {

constexpr uint32_t kDeviceMagic = 0x44504343;  // "CCPD"
// Beside the CPU's instruction sets: no kernels of the CPU engine belong to it.
constexpr Isa kIsaCuda = static_cast<Isa>(64);

constexpr int kTileM = 16, kTileN = 8, kTileK = 32;
constexpr int kMoreQuads = 16;  // behind a convolution's quads: read ahead, and not used

// What turns accumulators of one output channel into values: together, because one load is one wait.
struct alignas(16) ChannelNumbers {
  int32_t bias, mult, shift, below;  // bias: where accumulators start; of the own group's 0, it starts from the base
};

// One convolution. k counts bytes of its input over all taps, padded to whole products of kTileK.
struct DeviceConv {
  int32_t kernel, upsample, output, is_signed;
  int32_t cout, m_tiles, k_steps, cin_pad;
  // Of the own group's: products of the taps whose symbols are at least two steps old; they lie first.
  int32_t early_steps;
  int32_t zero, in_zero;  // bytes that stand for 0 in its output and its input
  int64_t weights;        // uint4 [m_tiles][k_steps][32]
  int64_t quads;          // uint32 [k_steps * 8 + kMoreQuads]: where four consecutive k lie, see quad()
  int64_t numbers;        // ChannelNumbers [m_tiles * 16]
};

struct DeviceGroup {
  int32_t channels, first_channel, plane_channel;
  uint64_t per_channel;  // reciprocal() of channels
  int32_t base_width, base_pad;
  int32_t stack_layers, has_skip, hidden_layers;
  int32_t within_step;        // whether a tap reaches positions of its own step, which it must not see
  int32_t radius;             // of everything that reads the earlier groups
  int32_t shift[kMaxLayers];  // of the tiles of each of its layers, see tiles.h
  int64_t base_init;          // int32 [base_pad]
  DeviceConv spatial;         // own group, its bias is the base; output: f, or the head itself (kHead)
  DeviceConv hyper, skip, head;
  DeviceConv stack[kMaxLayers], hidden[kMaxLayers];
};

// Equal parts of the probability range: a slot outside of its window and its neighbours is looked for from its part's
// first entry on.
constexpr int kPartBits = 7;

// A row of the tables.
struct alignas(16) DeviceRow {
  uint32_t first;  // entry 0
  int32_t lo;      // symbol of entry 0
  int32_t count;
  int32_t window;                  // number of the window's first entry
  uint32_t parts[1 << kPartBits];  // the entry that holds a part's first slot, by its index in entries
};

// What decoders read of a row all the time, in shared memory where that is large enough. 80 bytes: the windows of
// neighbouring rows lie in different banks.
struct alignas(16) RowWindow {
  uint32_t entry[kWindow];  // start << 16 | freq - 1, filled up with kNoEntry
  uint32_t key;             // see row_key()
  uint32_t mode;            // the most probable entry: start << 16 | freq
  int32_t lo_mode;          // its symbol
  // Number of the escape, counted from the window's first entry, << 16 | what RowNeighbours there are, + 1; 0: none.
  uint32_t outside;
};

// Entries beside a window: those before it, then those behind it; start << 16 | freq, 0 where there is none.
constexpr int32_t kNeighbours = 32;
struct alignas(16) RowNeighbours {
  uint32_t entry[kNeighbours];
};
// Number of a neighbour, counted from the window's first entry.
CCM_HD int32_t neighbour_place(int32_t k) {
  return k < kNeighbours / 2 ? k - kNeighbours / 2 : k - kNeighbours / 2 + kWindow;
}

struct DeviceRows {
  int64_t rows;     // DeviceRow [count]
  int64_t entries;  // uint32: start << 16 | freq
  int64_t windows;  // RowWindow [count], then RowNeighbours [neighbour_count], of rows longer than a window
  int32_t count, neighbour_count;

  CCM_HD int64_t window_bytes() const {
    return count * static_cast<int64_t>(sizeof(RowWindow)) +
           neighbour_count * static_cast<int64_t>(sizeof(RowNeighbours));
  }
};

struct DeviceModel {
  uint32_t magic;
  int32_t groups;
  int32_t least_version;  // of its streams
  int64_t bytes;
  int64_t identity;  // hash of the rest, by which its copies on devices are found again
  int32_t latent_channels, hyper_channels, psi_channels, plane_channels;
  int32_t scale_codes, residual, scaled_context, hs_layers;
  int32_t most_shift;
  int32_t skip_scale;  // symbols of y with a scale index up to this are not coded; -1: all are
  int32_t z_coded;     // channels of z that are coded
  // reciprocal() of the number of channels of z, and of z_coded (at least 1)
  uint64_t per_hyper_channel, per_coded_channel;
  Schedule schedule[kMaxGroups];
  int64_t z_channels;                   // int32 [z_coded]: their numbers
  int64_t z_values;                     // int32 [hyper_channels]: what the others are; kCodedChannel
  int64_t context_mult, context_shift;  // int32 [plane_channels]
  int64_t scale_table;                  // uint8 [scale_codes]
  ScaleRow scale_rows[kNumScales];
  DeviceRows y_rows, z_rows;
  DeviceConv hs[kMaxLayers];
  DeviceGroup group[kMaxGroups];

  template <class T>
  CCM_HD const T* at(int64_t offset) const {
    return reinterpret_cast<const T*>(reinterpret_cast<const char*>(this) + offset);
  }
};

// A quad: four consecutive bytes of k. Channel in bits 0..15, then di + 8 and dj + 8 of its tap.
CCM_HD uint32_t quad(int32_t channel, int32_t di, int32_t dj) {
  return static_cast<uint32_t>(channel) | static_cast<uint32_t>(di + 8) << 16 | static_cast<uint32_t>(dj + 8) << 24;
}
CCM_HD int32_t quad_offset(uint32_t q, int32_t row_stride, int32_t stride) {
  return (static_cast<int32_t>(q >> 16 & 255) - 8) * row_stride + (static_cast<int32_t>(q >> 24) - 8) * stride +
         static_cast<int32_t>(q & 0xffff);
}

// What a decoder needs of a row at once: its number (16 bits), and places among the entries of its window: of the most
// probable one, and of the escape (kNoPlace where it is not there).
constexpr uint32_t kNoPlace = 31;
CCM_HD uint32_t row_key(int32_t row, uint32_t mode_place, uint32_t escape_place) {
  return static_cast<uint32_t>(row) | mode_place << 16 | escape_place << 20;
}
CCM_HD int32_t key_row(uint32_t key) { return static_cast<int32_t>(key & 0xffff); }
CCM_HD int32_t key_mode_place(uint32_t key) { return static_cast<int32_t>(key >> 16 & 15); }
CCM_HD int32_t key_escape_place(uint32_t key) { return static_cast<int32_t>(key >> 20); }

// Fills a window up: above what any slot is compared with.
constexpr uint32_t kNoEntry = 0xffffffffu;

// Division by a number that the compiler does not know: it would use floating point, in loops of subtractions too
// (which it recognises). Exact for every 32-bit n.
CCM_HD uint64_t reciprocal(uint32_t d) { return d == 1 ? 0 : ~uint64_t{0} / d + 1; }

// The layout that pack_plan has to use for to_device().
const Layout& cuda_layout();

// From a model packed for cuda_layout(). Throws PlanError where the kernels' limits are narrower than the format's.
std::vector<uint8_t> to_device(const PackedModel& m);

}  // namespace ccm
