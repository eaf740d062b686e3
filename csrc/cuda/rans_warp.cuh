// A warp decodes one rANS stream (FORMAT.md, section 5).
//
// Each of the stream's L lanes is held by 32 / L threads, which all keep its state; together they hold the sixteen
// entries of the next symbol's window, loaded before the state that will look among them is known. What remains in the
// serial chain of a lane is: compare, ballot, one shuffle, one multiplication. Lanes that need a word find its place in
// the common stream with a ballot.
#pragma once
#include "ccm/rans.h"
#include "ccm/status.h"
#include "cuda/device.h"
#include "cuda/model_cuda.h"

namespace ccm {

constexpr unsigned kWarp = 0xffffffffu;

// Symbols to decode, prepared by all threads of the block.
struct Work {
  uint32_t* key;    // row_key()
  int32_t* value;   // value of the window's first entry; one entry further is `unit` more
  int16_t* symbol;  // result
};

class WarpDecoder {
 public:
  // Every thread of the warp calls everything. `data`: the stream, `size` bytes.
  CCM_DEVICE void open(const uint8_t* data, int64_t size, int32_t lanes) {
    const int32_t lane = threadIdx.x & 31;
    lanes_ = lanes;
    bad_ = kOk;
    x_ = kStateLow;
    words_ = data;
    left_ = 0;
    const int32_t head = lanes * kStateBytes;
    if (size < head) {
      bad_ = kTruncated;
    } else if (size >> 1 > 0x7fffffff) {  // more words than a plane's symbols can need
      bad_ = kDamaged;
    } else {
      const uint8_t* state = data + (lane * lanes >> 5) * kStateBytes;  // lanes are a power of two
      x_ = 0;
      for (int b = 0; b < kStateBytes; ++b) x_ |= static_cast<uint64_t>(state[b]) << (8 * b);
      const bool low = x_ < (size >= head + 2 ? kStateLow : end_state(lanes_));
      words_ = data + head;
      left_ = static_cast<int32_t>((size - head) / 2);
      if (__any_sync(kWarp, low) || (size - head) % 2) bad_ = kDamaged;
    }
    next_ = 0;
    near_ = word(lane);
    far_ = word(32 + lane);
  }

  // n symbols of one step, from the start of a round on. Not to be called again once bad().
  CCM_DEVICE void decode(const DeviceModel& m, const DeviceRows& rows, const Work& work, int32_t n, int32_t unit) {
    switch (lanes_) {
      case 1:
        return rounds<1>(m, rows, work, n, unit);
      case 2:
        return rounds<2>(m, rows, work, n, unit);
      case 4:
        return rounds<4>(m, rows, work, n, unit);
      case 8:
        return rounds<8>(m, rows, work, n, unit);
      case 16:
        return rounds<16>(m, rows, work, n, unit);
      default:
        return rounds<32>(m, rows, work, n, unit);
    }
  }

  CCM_DEVICE Status bad() const { return bad_; }

  // After the last symbol.
  CCM_DEVICE Status finish() const {
    const bool ended = __all_sync(kWarp, x_ == end_state(lanes_));
    return bad_ != kOk ? bad_ : (ended && left_ == 0 ? kOk : kDamaged);
  }

 private:
  // Word i after next_; 0 past the end.
  CCM_DEVICE unsigned word(int32_t i) const {
    if (i - next_ >= left_) return 0;
    return words_[2 * static_cast<int64_t>(i)] | static_cast<unsigned>(words_[2 * static_cast<int64_t>(i) + 1]) << 8;
  }

  template <int L>
  CCM_DEVICE void rounds(const DeviceModel& m, const DeviceRows& rows, const Work& work, int32_t n, int32_t unit) {
    constexpr int T = 32 / L, E = T < kWindow ? kWindow / T : 1;
    const int32_t lane = threadIdx.x & 31, group = lane / T, sub = lane % T;
    const uint32_t* windows = m.at<uint32_t>(rows.windows);
    // Few lanes make long chains, and most symbols are their row's most probable one: those are tried first, without
    // ballot and shuffle, and the window is loaded when it is needed. Many lanes hardly ever agree: they load ahead.
    constexpr bool kTryMode = L <= 4;
    // What later rounds need is loaded early, off the chain of states: keys two rounds ahead, the rest one.
    uint32_t key = 0, next_key = group < n ? work.key[group] : 0, later_key = 0, mode = 0, next_mode = 0;
    int32_t value = 0, next_value = 0;
    uint32_t entry[E], next_entry[E];
    const auto load_next = [&](int32_t at) {
      later_key = at + L < n ? work.key[at + L] : 0;
      next_value = at < n ? work.value[at] : 0;
      const uint32_t* window = windows + key_row(next_key) * kWindow;
      if constexpr (kTryMode)
        next_mode = window[key_mode(next_key)];
      else
        load_entries<E>(window + sub * E, next_entry);
    };
    load_next(group);
    for (int32_t first = 0; first < n; first += L) {
      const int32_t at = first + group;
      const bool active = at < n;
      const uint32_t slot = static_cast<uint32_t>(x_) & kProbMask;
      key = next_key;
      value = next_value;
      mode = next_mode;
#pragma unroll
      for (int e = 0; e < E; ++e) entry[e] = next_entry[e];
      next_key = later_key;
      load_next(at + L);
      if constexpr (kTryMode) {
        const bool met = slot - (mode >> 16) < (mode & kProbMask) || !active;
        if (L == 1 ? met : __all_sync(kWarp, met)) {
          bool damaged = false;
          if (active) {
            x_ = rans_advance(x_, slot, mode >> 16, mode & kProbMask);
            value += key_mode(key) * unit;
            if (sub == 0) work.symbol[at] = static_cast<int16_t>(value);
            damaged = value < -32767 || value > 32767;
          }
          if (L > 1 || x_ < kStateLow) refill<T>(active, group, sub);
          // Whole latents are their row's small symbols and a mean of 16 bits / 16: they always fit.
          if (unit > 1 && __any_sync(kWarp, damaged) && bad_ == kOk) bad_ = kDamaged;
          continue;
        }
        if (T == 32 && sub >= kWindow)
          entry[0] = kNoEntry;
        else
          load_entries<E>(windows + key_row(key) * kWindow + sub * E, entry);
      }

      // The last entry of the window that starts at or below the slot: of this thread's, then of the group's.
      const uint32_t limit = min(slot << 16 | kProbMask, kNoEntry - 1);
      uint32_t mine = entry[0];
      int32_t k = sub * E;
#pragma unroll
      for (int e = 1; e < E; ++e)
        if (entry[e] <= limit) mine = entry[e], k = sub * E + e;
      const unsigned candidates = group_bits<T>(__ballot_sync(kWarp, active && entry[0] <= limit), group);
      const int32_t owner = candidates ? 31 - __clz(candidates) : 0;
      uint32_t found = T > 1 ? __shfl_sync(kWarp, mine, group * T + owner) : mine;
      bool writes = sub == owner, escape = key_escape(key) && k + 1 == key_inside(key);
      // Past the window: below its first entry, or above its last one where that is not the row's last.
      const bool outside = active && (!candidates || slot - (found >> 16) >= (found & kProbMask));
      if (__any_sync(kWarp, outside)) {
        if (outside) {
          const DeviceRow& row = m.at<DeviceRow>(rows.rows)[key_row(key)];
          const uint32_t* entries = m.at<uint32_t>(rows.entries);
          const int32_t entry_index = bisect(entries + row.first, row.count, limit);
          found = entries[row.first + entry_index];
          k = entry_index - (row.lo_inside - row.lo);
          writes = sub == 0;
          escape = entry_index + 1 == row.count;
        }
      }
      if (active) x_ = rans_advance(x_, slot, found >> 16, found & kProbMask);
      bool damaged = false;
      if (active && writes && !escape) {
        const int32_t found_value = value + k * unit;
        damaged = found_value < -32767 || found_value > 32767;
        work.symbol[at] = static_cast<int16_t>(found_value);
      }
      refill<T>(active, group, sub);
      const unsigned escapes = __ballot_sync(kWarp, active && writes && escape);
      if (escapes) damaged |= decode_escapes<T>(m, rows, work, at, group_bits<T>(escapes, group) != 0, unit);
      if (__any_sync(kWarp, damaged) && bad_ == kOk) bad_ = kDamaged;
    }
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

  // Index of the last entry that starts at or below the slot.
  CCM_DEVICE static int32_t bisect(const uint32_t* entries, int32_t count, uint32_t limit) {
    int32_t lo = 0, hi = count;
    while (hi - lo > 1) {
      const int32_t mid = (lo + hi) / 2;
      if (entries[mid] <= limit)
        lo = mid;
      else
        hi = mid;
    }
    return lo;
  }

  template <int T>
  CCM_DEVICE static unsigned group_bits(unsigned ballot, int32_t group) {
    if constexpr (T == 32)
      return ballot;
    else
      return ballot >> (group * T) & ((1u << T) - 1);
  }

  // Lanes for which `using_it` holds take a word if they need one, in the order of lanes.
  template <int T>
  CCM_DEVICE void refill(bool using_it, int32_t group, int32_t sub) {
    const bool need = using_it && x_ < kStateLow;
    const unsigned mask = __ballot_sync(kWarp, need && sub == 0);
    if (!mask) return;
    const int32_t rank = __popc(mask & ((1u << (group * T)) - 1)), taken = __popc(mask);
    const int32_t at = (next_ & 31) + rank;
    const unsigned a = __shfl_sync(kWarp, near_, at & 31), b = __shfl_sync(kWarp, far_, at & 31);
    bool truncated = false;
    if (need) {
      if (rank < left_) {
        x_ = x_ << 16 | (at < 32 ? a : b);
      } else if (x_ < end_state(lanes_)) {
        truncated = true;
        x_ <<= 16;  // anything; it keeps the state from reaching zero
      }
    }
    if (__any_sync(kWarp, truncated) && bad_ == kOk) bad_ = kTruncated;
    const int32_t before = next_;
    const int32_t step = min(taken, left_);
    next_ += step;
    left_ -= step;
    if ((before ^ next_) & ~31) {  // the next 32 words
      near_ = far_;
      far_ = word((next_ & ~31) + 32 + (threadIdx.x & 31));
    }
  }

  template <int T>
  CCM_DEVICE uint32_t raw_bits(bool using_it, int32_t bits, int32_t group, int32_t sub) {
    const uint32_t slot = static_cast<uint32_t>(x_) & kProbMask, value = slot >> (kProbBits - bits);
    if (using_it) x_ = rans_advance(x_, slot, value << (kProbBits - bits), 1u << (kProbBits - bits));
    refill<T>(using_it, group, sub);
    return value;
  }

  // Phases two and three of a round; returns whether this thread met an impossible escape.
  template <int T>
  CCM_DEVICE bool decode_escapes(const DeviceModel& m, const DeviceRows& rows, const Work& work, int32_t at,
                                 bool escaped, int32_t unit) {
    const int32_t lane = threadIdx.x & 31, group = lane / T, sub = lane % T;
    uint32_t length = raw_bits<T>(escaped, kEscapeLengthBits, group, sub);
    bool damaged = escaped && length > kEscapeMaxLength;
    if (!escaped || damaged) length = 0;
    const bool more = length >= 2;
    const int32_t bits = more ? static_cast<int32_t>(length) - 1 : 1;
    const uint32_t low = raw_bits<T>(more, bits, group, sub);
    if (escaped && sub == 0) {
      const uint32_t e = more ? 1u << bits | low : length;
      const DeviceRow& row = m.at<DeviceRow>(rows.rows)[key_row(work.key[at])];
      const int32_t half = static_cast<int32_t>(e >> 1);
      const int32_t v = e & 1 ? row.lo - 1 - half : row.lo + row.count - 1 + half;
      const int32_t value = work.value[at] + (v - row.lo_inside) * unit;
      damaged |= value < -32767 || value > 32767;
      work.symbol[at] = static_cast<int16_t>(value);
    }
    return damaged;
  }

  uint64_t x_ = 0;
  const uint8_t* words_ = nullptr;
  int32_t left_ = 0;             // words not yet read
  int32_t next_ = 0;             // words read
  unsigned near_ = 0, far_ = 0;  // words (next_ & ~31) + lane, and 32 further
  int32_t lanes_ = 1;
  Status bad_ = kOk;
};

}  // namespace ccm
