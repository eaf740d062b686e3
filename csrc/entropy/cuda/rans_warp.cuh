// A warp decodes one sequence of words of a rANS stream (FORMAT.md, section 5; docs/format2.md).
//
// Each of the sequence's L lanes is held by 32 / L threads, which all keep its state; together they hold the sixteen
// entries of the next symbol's window, loaded a round before the state that will look among them is known. What remains
// in the serial chain of a lane: the search (halving, in registers; with several threads a lane also a ballot and a
// shuffle), one multiplication, and for lanes that need a word a ballot, which tells its place in the common stream,
// and a shuffle.
#pragma once
#include "base/status.h"
#include "entropy/cuda/device.h"
#include "entropy/cuda/latents.h"
#include "entropy/cuda/model_cuda.h"
#include "format/rans.h"

namespace ccm {

constexpr unsigned kWarp = 0xffffffffu;

// A symbol to decode, prepared by all threads of the block.
struct alignas(8) Symbol {
  uint32_t key;   // row_key()
  int32_t value;  // at first of the window's first entry, one entry further is `unit` more; then the symbol's
};

// Sequences of a stream.
CCM_DEVICE int32_t sequences_of(int64_t code) {
  const int32_t lanes = stream_kind(code).lanes;
  return lanes <= kSequenceLanes ? 1 : lanes / kSequenceLanes;
}

// Symbols of sequence q among n that are dealt to `count` sequences in blocks of 32; count is a power of two.
CCM_DEVICE int32_t symbols_of_sequence(int32_t n, int32_t count, int32_t q) {
  const int32_t blocks = n / kSequenceLanes, turns = blocks >> highest_bit(count), last = blocks & (count - 1);
  return (turns + (q < last)) * kSequenceLanes + (q == last ? n % kSequenceLanes : 0);
}

class WarpDecoder {
 public:
  // Every thread of the warp calls everything. Sequence q of the stream, which lies in `size` bytes from `data` on.
  CCM_DEVICE void open(const uint8_t* data, int64_t size, int64_t code, int32_t q) {
    const StreamKind kind = stream_kind(code);
    sequences_ = sequences_of(code);
    lanes_ = kind.lanes >> highest_bit(sequences_);
    bad_ = kOk;
    x_ = kStateLow;
    words_ = data;
    total_ = next_ = 0;
    least_ = kind.version == 2 ? 0 : static_cast<uint32_t>(end_state(lanes_));
    if (size >> 1 > kMostWords)
      bad_ = kDamaged;
    else if (kind.version == 2)
      open_sequence(data, size, q);
    else
      open_version_1(data, size);
    const int32_t lane = threadIdx.x & 31;
    near_ = word(lane) | word(32 + lane) << 16;
    fetch_words(64);
    most_ = min(total_, 31);
  }

  // After the last symbol of a step, of which the sequence had n.
  CCM_DEVICE void end_step(int32_t n) {
    if (least_ != 0) return;
    const int32_t from = (threadIdx.x + (next_turn(0, n, lanes_) << (5 - highest_bit(lanes_)))) & 31;
    const uint32_t low = __shfl_sync(kWarp, static_cast<uint32_t>(x_), from);
    const uint32_t high = __shfl_sync(kWarp, static_cast<uint32_t>(x_ >> 32), from);
    x_ = static_cast<uint64_t>(high) << 32 | low;
  }

  // n symbols of one step, from the start of a round on, `sequences` blocks of 32 between two rounds if there are
  // several; kMoreSymbols with valid keys lie behind them. Not to be called again once bad().
  CCM_DEVICE void decode(const DeviceModel& m, const DeviceRows& rows, Symbol* symbols, int32_t n, int32_t unit) {
    switch (lanes_) {
      case 1:
        return rounds<1>(m, rows, symbols, n, unit);
      case 2:
        return rounds<2>(m, rows, symbols, n, unit);
      case 4:
        return rounds<4>(m, rows, symbols, n, unit);
      case 8:
        return rounds<8>(m, rows, symbols, n, unit);
      case 16:
        return rounds<16>(m, rows, symbols, n, unit);
      default:
        return rounds<32>(m, rows, symbols, n, unit);
    }
  }

  CCM_DEVICE Status bad() const { return bad_; }

  // After the last symbol.
  CCM_DEVICE Status finish() const {
    const bool ended = __all_sync(kWarp, least_ == 0 ? valid_end(x_) : x_ == least_);
    return bad_ != kOk ? bad_ : (ended && next_ == total_ ? kOk : kDamaged);
  }

 private:
  static constexpr int64_t kMostWords = 0x7fffff00;  // more than a plane's symbols need; windows of 96 lie behind them

  CCM_DEVICE static uint64_t read_state(const uint8_t* data, int64_t bytes) {
    uint64_t x = 0;
    for (int64_t b = 0; b < bytes; ++b) x |= static_cast<uint64_t>(data[b]) << (8 * b);
    return x;
  }

  // Of this thread.
  CCM_DEVICE int32_t lane_of_stream() const { return static_cast<int32_t>(threadIdx.x & 31) * lanes_ >> 5; }

  CCM_DEVICE void words_from(const uint8_t* data, int64_t size) {
    words_ = data;
    total_ = static_cast<int32_t>(size / 2);
    if (size % 2) bad_ = kDamaged;
  }

  CCM_DEVICE void open_version_1(const uint8_t* data, int64_t size) {
    const int32_t head = lanes_ * kStateBytes;
    if (size < head) {
      bad_ = kTruncated;
      return;
    }
    x_ = read_state(data + lane_of_stream() * kStateBytes, kStateBytes);
    const bool low = x_ < (size >= head + 2 ? kStateLow : end_state(lanes_));
    if (__any_sync(kWarp, low)) bad_ = kDamaged;
    words_from(data + head, size - head);
  }

  // An unsigned LEB128 number of at most 5 bytes without superfluous zero groups, taken from the front.
  CCM_DEVICE static Status read_varint(const uint8_t*& data, int64_t& size, int64_t& value) {
    value = 0;
    for (int i = 0; i < 5; ++i) {
      if (!size) return kTruncated;
      const uint8_t byte = *data++;
      --size;
      value |= static_cast<int64_t>(byte & 127) << (7 * i);
      if (byte < 128) return byte || !i ? kOk : kDamaged;
    }
    return kDamaged;
  }

  // Version 2: finds the sequence behind the lengths of all but the last.
  CCM_DEVICE void open_sequence(const uint8_t* data, int64_t size, int32_t q) {
    int64_t before = 0, own = 0;
    for (int32_t k = 0; k + 1 < sequences_ && bad_ == kOk; ++k) {
      int64_t length;
      bad_ = read_varint(data, size, length);
      if (k < q) before += length;
      if (k == q) own = length;
    }
    if (bad_ == kOk && before + own > size) bad_ = kTruncated;
    if (bad_ == kOk) read_version_2(data + before, q + 1 == sequences_ ? size - before : own);
  }

  CCM_DEVICE void read_version_2(const uint8_t* data, int64_t size) {
    if (lanes_ == 1 && size <= kStateBytes) {  // the state alone, written as short as can be
      x_ = size ? read_state(data, size) : kStateFirst;
      if (size && (!data[size - 1] || x_ <= kStateFirst)) bad_ = kDamaged;
      return;
    }
    const int32_t mine = lane_of_stream();
    uint32_t flags = static_cast<uint32_t>(size & 1);  // bit k: the state of lane k has five bytes
    int32_t head = 0;
    if (lanes_ > 1) {
      head = flag_bytes(lanes_);
      if (size < head) {
        bad_ = kTruncated;
        return;
      }
      flags = static_cast<uint32_t>(read_state(data, head));
      if (lanes_ < 8 && flags >> lanes_) bad_ = kDamaged;
      if (lanes_ < 8) flags &= (1u << lanes_) - 1;
    }
    const int32_t all = head + lanes_ * (kStateBytes - 1) + __popc(flags);
    if (size < all) {
      bad_ = kTruncated;
      return;
    }
    const int32_t at = head + mine * (kStateBytes - 1) + __popc(flags & ((1u << mine) - 1));
    const bool longer = flags >> mine & 1;
    x_ = read_state(data + at, kStateBytes - 1 + longer);
    const bool low = x_ < (longer ? kStateLong : (size >= all + 2 ? kStateLow : kStateFirst));
    if (__any_sync(kWarp, low)) bad_ = kDamaged;
    words_from(data + all, size - all);
  }

  // Word i of the stream; 0 past the end.
  CCM_DEVICE unsigned word(int32_t i) const {
    if (i >= total_) return 0;
    return words_[2 * static_cast<int64_t>(i)] | static_cast<unsigned>(words_[2 * static_cast<int64_t>(i) + 1]) << 8;
  }

  // What a thread has found of a symbol in its window.
  struct Found {
    uint32_t entry;
    int32_t k;
    bool writes;  // one thread of each lane, which knows k
  };

  template <int L>
  CCM_DEVICE void rounds(const DeviceModel& m, const DeviceRows& rows, Symbol* symbols, int32_t n, int32_t unit) {
    constexpr int T = 32 / L, E = T < kWindow ? kWindow / T : 1;
    const int32_t lane = lane_here(), group = lane / T, place = lane % T % (kWindow / E) * E;
    // With one lane the upper threads repeat the lower ones' entries.
    const uint32_t* windows = m.at<uint32_t>(rows.windows) + place;
    // Loaded early, off the chain of states: symbols two rounds ahead, windows one. Two sets of each change places: a
    // copy from one to the other would wait for what the same round has loaded.
    Symbol* at = symbols + group;
    const int32_t further = L == kSequenceLanes ? L * sequences_ : L;  // from a round's symbols to the next one's
    Symbol even = at[0], odd = at[further];
    uint32_t even_entry[E], odd_entry[E];
    load_entries<E>(windows + key_row(even.key) * kWindow, even_entry);
    const auto round = [&](Symbol& symbol, const uint32_t (&entry)[E], const Symbol& next, uint32_t (&entry_of_next)[E],
                           int32_t left) {
      Found found = look<L>(lane, entry, place);
      load_entries<E>(windows + key_row(next.key) * kWindow, entry_of_next);
      if (!common_round<L>(lane, at, symbol, group < left, unit, found)) {
        const bool moved = look_outside<T>(lane, m, rows, symbol, group < left, found);
        if (!moved || !common_round<L>(lane, at, symbol, group < left, unit, found))
          rare_round<T>(lane, m, rows, at, symbol, found, group < left, unit);
      }
      symbol = at[2 * further];
      at += further;
    };
#pragma unroll 1
    for (int32_t left = n;;) {
#if CCM_FAULT != 3
      __syncwarp();  // a lane's threads have all read what one of them overwrites: two rounds ago or earlier
#endif
      round(even, even_entry, odd, odd_entry, left);
      if ((left -= L) <= 0) break;
      round(odd, odd_entry, even, even_entry, left);
      if ((left -= L) <= 0) break;
    }
  }

  // The last entry of the window that starts at or below the slot; its first one if there is none.
  template <int L, int E>
  CCM_DEVICE Found look(int32_t lane, const uint32_t (&entry)[E], int32_t place) const {
    constexpr int T = 32 / L;
    const uint32_t slot = static_cast<uint32_t>(x_) & kProbMask, limit = min(slot << 16 | kProbMask, kNoEntry - 1);
    Found found{0, place, true};
    found.entry = search<E>(entry, limit, found.k);
    if constexpr (T > 1) {
      constexpr unsigned kGroup = T < kWindow ? (1u << T) - 1 : (1u << kWindow) - 1;
      const int32_t first_thread = lane / T * T;
      const unsigned below = __ballot_sync(kWarp, entry[0] <= limit);
      const int32_t owner = highest_bit((below & kGroup << first_thread) | 1u << first_thread);
      found.entry = __shfl_sync(kWarp, found.entry, owner);
      found.writes = lane == owner;
    }
    return found;
  }

  // A round whose symbols have been found, without an escape, and whose words are there. False: it is not one, nothing
  // has happened yet.
  template <int L>
  CCM_DEVICE bool common_round(int32_t lane, Symbol* at, const Symbol& symbol, bool active, int32_t unit,
                               const Found& found) {
    const int32_t first_thread = lane / (32 / L) * (32 / L);
    const uint32_t slot = static_cast<uint32_t>(x_) & kProbMask;
    const uint32_t start = found.entry >> 16, freq = found.entry & kProbMask;
    const int32_t value = symbol.value + found.k * unit;
    // Outside of the window, below its first entry or above its last one where that is not the row's last; an escape; a
    // value that does not fit (whole latents do: they are their row's small symbols and a mean of 16 bits / 16).
    const bool escape = found.k == key_escape_place(symbol.key), wide = (unit > 1) & !fits(value);
    const bool odd = active & ((slot - start >= freq) | (found.writes & (escape | wide)));
    const uint64_t x = rans_advance(x_, slot, start, freq);
    const bool needs = active & (x < kStateLow);
    const unsigned needing = __ballot_sync(kWarp, needs & (lane == first_thread));
    bool rare = __any_sync(kWarp, odd), turn = false;
    int32_t read = next_;
    unsigned word_of_lane = 0;
    if (L > 8 || needing) {  // many lanes nearly always take a word
      word_of_lane = take(needing, first_thread);
      read += __popc(needing);
      turn = read > most_;
      rare |= turn && read > total_;
    }
    if (rare) return false;
    if (active) x_ = needs ? x << 16 | word_of_lane : x;
    next_ = read;
    if (turn) advance_words();
    if (active & found.writes) at->value = value;
    return true;
  }

  CCM_DEVICE static bool fits(int32_t value) { return value >= -32767 && value <= 32767; }

  // The last of E entries, in ascending order, at or below the limit, if there is one; its number is added to k.
  template <int E>
  CCM_DEVICE static uint32_t search(const uint32_t (&entry)[E], uint32_t limit, int32_t& k) {
    if constexpr (E == 1) {
      return entry[0];
    } else {
      const bool upper = entry[E / 2] <= limit;
      uint32_t half[E / 2];
#pragma unroll
      for (int e = 0; e < E / 2; ++e) half[e] = upper ? entry[E / 2 + e] : entry[e];
      k += upper ? E / 2 : 0;
      return search<E / 2>(half, limit, k);
    }
  }

  // Any round; look_outside() has been there.
  template <int T>
  CCM_DEVICE void rare_round(int32_t lane, const DeviceModel& m, const DeviceRows& rows, Symbol* at,
                             const Symbol& symbol, const Found& found, bool active, int32_t unit) {
    const uint32_t slot = static_cast<uint32_t>(x_) & kProbMask;
    const DeviceRow& row = m.at<DeviceRow>(rows.rows)[key_row(symbol.key)];
    const bool escape = found.k == key_escape_place(symbol.key);
    if (active) x_ = rans_advance(x_, slot, found.entry >> 16, found.entry & kProbMask);
    bool damaged = false;
    if (active && found.writes && !escape) {
      at->value = symbol.value + found.k * unit;
      damaged = !fits(at->value);
    }
    refill<T>(lane, active);
    const unsigned escapes = __ballot_sync(kWarp, active && found.writes && escape);
    if (escapes) damaged |= decode_escapes<T>(lane, row, at, symbol.value, (escapes & group_mask<T>(lane)) != 0, unit);
    if (__any_sync(kWarp, damaged) && bad_ == kOk) bad_ = kDamaged;
  }

  // E entries of a window, as wide as can be.
  template <int E>
  CCM_DEVICE static void load_entries(const uint32_t* from, uint32_t (&to)[E]) {
    if constexpr (E >= 4) {
#pragma unroll
      for (int e = 0; e < E; e += 4) {
        const uint4 four = *reinterpret_cast<const uint4*>(from + e);
        to[e] = four.x, to[e + 1] = four.y, to[e + 2] = four.z, to[e + 3] = four.w;
      }
    } else if constexpr (E == 2) {
      const uint2 two = *reinterpret_cast<const uint2*>(from);
      to[0] = two.x, to[1] = two.y;
    } else {
      to[0] = *from;
    }
  }

  // Finds the symbols that lie outside of their windows; false: none does. A row knows with which entry a slot's part
  // of the range begins; the whole warp looks at the entries from there on, one lane's after another.
  template <int T>
  CCM_DEVICE bool look_outside(int32_t lane, const DeviceModel& m, const DeviceRows& rows, const Symbol& symbol,
                               bool active, Found& found) const {
    const uint32_t slot = static_cast<uint32_t>(x_) & kProbMask;
    const bool outside = active && slot - (found.entry >> 16) >= (found.entry & kProbMask);
    unsigned who = __ballot_sync(kWarp, outside && lane % T == 0);
    if (!who) return false;
    uint32_t part = 0, end = 0;
    int32_t origin = 0;  // index of the entry that is number 0 of the window
    if (who >> lane & 1) {
      const DeviceRow& row = m.at<DeviceRow>(rows.rows)[key_row(symbol.key)];
      part = row.parts[slot >> (kProbBits - kPartBits)];
      end = row.first + static_cast<uint32_t>(row.count);
      origin = static_cast<int32_t>(row.first) + row.lo_inside - row.lo;
    }
    const uint32_t* const entries = m.at<uint32_t>(rows.entries);
    for (; who; who &= who - 1) {
      const int32_t owner = __ffs(static_cast<int>(who)) - 1;
      const uint32_t limit = min(__shfl_sync(kWarp, slot, owner) << 16 | kProbMask, kNoEntry - 1);
      const uint32_t stop = __shfl_sync(kWarp, end, owner);
      uint32_t first = __shfl_sync(kWarp, part, owner), entry = 0;
      unsigned below = 0;
      for (;; first += 31) {  // the last one of all that start at or below the slot is looked at again
        const uint32_t at = first + static_cast<uint32_t>(lane);
        entry = at < stop ? entries[at] : kNoEntry;
        below = __ballot_sync(kWarp, entry <= limit);
        if (below != kWarp) break;
      }
      const int32_t place = highest_bit(below);
      entry = __shfl_sync(kWarp, entry, place);
      if (lane / T != owner / T) continue;
      const uint32_t index = first + static_cast<uint32_t>(place);
      // An escape out here is not in the window: kNoPlace is its place.
      const int32_t k = index + 1 == stop ? static_cast<int32_t>(kNoPlace) : static_cast<int32_t>(index) - origin;
      found = {entry, k, lane == owner};
    }
    return true;
  }

  // The threads of this thread's lane.
  template <int T>
  CCM_DEVICE static unsigned group_mask(int32_t lane) {
    if constexpr (T == 32)
      return kWarp;
    else
      return ((1u << T) - 1) << lane / T * T;
  }

  // The word of a lane, given its first thread and, in `needing`, the first threads of all lanes that take one: in the
  // order of lanes.
  CCM_DEVICE unsigned take(unsigned needing, int32_t first_thread) const {
    const int32_t place = (next_ & 31) + __popc(needing & ((1u << first_thread) - 1));
    const unsigned two = __shfl_sync(kWarp, near_, place & 31);
    return place & 32 ? two >> 16 : two & kProbMask;
  }

  // Lanes for which `using_it` holds take a word if they need one.
  template <int T>
  CCM_DEVICE void refill(int32_t lane, bool using_it) {
    const int32_t first_thread = lane / T * T;
    const bool needs = using_it && x_ < kStateLow;
    const unsigned needing = __ballot_sync(kWarp, needs && lane == first_thread);
    const unsigned word_of_lane = take(needing, first_thread);
    const bool there = __popc(needing & ((1u << first_thread) - 1)) < total_ - next_;
    const bool truncated = needs && !there && x_ < least_;
    if (needs && there) x_ = x_ << 16 | word_of_lane;
    if (truncated) x_ <<= 16;  // anything; it keeps the state from reaching zero
    if (__any_sync(kWarp, truncated) && bad_ == kOk) bad_ = kTruncated;
    const int32_t before = next_;
    next_ = min(total_, next_ + __popc(needing));
    if ((before ^ next_) & 32) advance_words();
  }

  // The next 32 words; those to come after the following ones are fetched.
  CCM_DEVICE void advance_words() {
    const int32_t base = next_ & ~31;
    near_ = near_ >> 16 | (far_low_ | far_high_ << 8) << 16;
    fetch_words(base + 64);
    most_ = min(total_, base + 31);
  }

  // Of 32 words each byte for itself: nothing waits for them until they are put together, 32 words later.
  CCM_DEVICE void fetch_words(int32_t first) {
    const int32_t i = first + static_cast<int32_t>(threadIdx.x & 31);
    far_low_ = far_high_ = 0;
    if (i < total_) {
      far_low_ = words_[2 * static_cast<int64_t>(i)];
      far_high_ = words_[2 * static_cast<int64_t>(i) + 1];
    }
  }

  template <int T>
  CCM_DEVICE uint32_t raw_bits(int32_t lane, bool using_it, int32_t bits) {
    const uint32_t slot = static_cast<uint32_t>(x_) & kProbMask, value = slot >> (kProbBits - bits);
    if (using_it) x_ = rans_advance(x_, slot, value << (kProbBits - bits), 1u << (kProbBits - bits));
    refill<T>(lane, using_it);
    return value;
  }

  // Phases two and three of a round; returns whether this thread met an impossible escape. `value`: the symbol's before
  // decoding.
  template <int T>
  CCM_DEVICE bool decode_escapes(int32_t lane, const DeviceRow& row, Symbol* at, int32_t value, bool escaped,
                                 int32_t unit) {
    uint32_t length = raw_bits<T>(lane, escaped, kEscapeLengthBits);
    bool damaged = escaped && length > kEscapeMaxLength;
    if (!escaped || damaged) length = 0;
    const bool more = length >= 2;
    const int32_t bits = more ? static_cast<int32_t>(length) - 1 : 1;
    const uint32_t low = raw_bits<T>(lane, more, bits);
    if (escaped && lane % T == 0) {
      const uint32_t e = more ? 1u << bits | low : length;
      const int32_t half = static_cast<int32_t>(e >> 1);
      const int32_t v = e & 1 ? row.lo - 1 - half : row.lo + row.count - 1 + half;
      at->value = value + (v - row.lo_inside) * unit;
      damaged |= !fits(at->value);
    }
    return damaged;
  }

  uint64_t x_ = 0;
  const uint8_t* words_ = nullptr;
  int32_t total_ = 0;  // words
  int32_t next_ = 0;   // words read
  int32_t most_ = 0;   // what next_ may become before new words are wanted, or there are none
  unsigned near_ = 0;  // with base = next_ & ~31, words base + lane and, in its upper half, base + 32 + lane
  unsigned far_low_ = 0, far_high_ = 0;  // word base + 64 + lane
  int32_t lanes_ = 1, sequences_ = 1;
  uint32_t least_ = 0;  // where a lane of version 1 ends; 0: version 2
  Status bad_ = kOk;
};

}  // namespace ccm
