// rANS encoding: a block a stream, a warp a sequence, a thread a lane, backwards from the last symbol to the first.
#include "entropy/cuda/kernels_cuda.h"
#include "entropy/cuda/product.cuh"
#include "entropy/cuda/rans_warp.cuh"
#include "format/escape.h"
#include "format/rans_tail.h"

namespace ccm {
namespace {

// Bytes of states and flags of a sequence, and of its length, at most.
constexpr int32_t kHeadRoom = kMaxLanes * kStateBytes + kMaxLanes / 8 + 5;

// x / freq where x < freq * 2^24, by long division: the compiler's own would use floating point.
CCM_DEVICE uint32_t divide(uint64_t x, uint32_t freq, uint32_t& remainder) {
  uint32_t rest = static_cast<uint32_t>(x >> 24), low = static_cast<uint32_t>(x) << 8, quotient = 0;
#pragma unroll 4
  for (int i = 0; i < 24; ++i) {
    rest = rest << 1 | low >> 31;
    low <<= 1;
    quotient <<= 1;
    if (rest >= freq) rest -= freq, quotient |= 1;
  }
  remainder = rest;
  return quotient;
}

// Of states at the end of an encoder's stream, in as few bytes as can be.
CCM_DEVICE int32_t bytes_of_last_state(uint64_t x) {
  int32_t bytes = 0;
  for (; x != kStateFirst && x >> (8 * bytes); ++bytes);
  return bytes;
}

// The coded symbols of one stream.
struct Source {
  const DeviceModel& m;
  const DeviceRows& rows;
  const int32_t* ends;    // y: [steps] symbols up to the end of each step; null: z
  const uint64_t* coded;  // y: row << 32 | value
  const int16_t* z;
  int32_t steps, positions;
  const int32_t* first_position;  // y: of each step

  CCM_DEVICE int32_t left(int32_t step) const { return positions - first_position[step]; }
  CCM_DEVICE int32_t first(int32_t step) const { return ends && step ? ends[step - 1] : 0; }
  CCM_DEVICE int32_t count(int32_t step) const { return ends ? ends[step] - first(step) : positions * m.z_coded; }
  CCM_DEVICE int32_t all() const { return first(steps - 1) + count(steps - 1); }
  CCM_DEVICE uint64_t symbol(int32_t i) const {
    if (ends) return coded[i];
    const int32_t position = quotient(i, m.per_coded_channel);
    const int32_t channel = m.at<int32_t>(m.z_channels)[i - position * m.z_coded];
    const int32_t value = z[static_cast<int64_t>(position) * m.hyper_channels + channel];
    return static_cast<uint64_t>(channel) << 32 | static_cast<uint32_t>(value);
  }
};

// What a lane codes in one phase of a round.
struct Event {
  bool active;
  uint32_t start, freq;
};

// A thread's symbol of a round, and its part in each phase: entry, escape's length, escape's low bits.
struct RoundSymbol {
  static constexpr int kPhases = 3;
  bool active, escaped;
  uint32_t entry, low;
  int32_t length;

  CCM_DEVICE RoundSymbol(const Source& s, bool present, int32_t i) : active(present) {
    const uint64_t symbol = present ? s.symbol(i) : 0;
    const int32_t value = static_cast<int32_t>(symbol);
    const DeviceRow& row = s.m.at<DeviceRow>(s.rows.rows)[symbol >> 32];
    const int32_t k = value - row.lo, entries = row.count - 1;
    escaped = present && (k < 0 || k >= entries);
    const uint32_t e = escape_magnitude(row.lo, row.count, value);
    length = escaped ? 32 - __clz(static_cast<int>(e)) : 0;
    low = length >= 2 ? e & ((1u << (length - 1)) - 1) : 0;
    entry = present ? s.m.at<uint32_t>(s.rows.entries)[row.first + (escaped ? entries : k)] : 1;
  }
  CCM_DEVICE Event event(int phase) const {
    if (phase == 0) return {active, entry >> 16, entry & kProbMask};
    if (phase == 1) return raw(escaped, static_cast<uint32_t>(length), kEscapeLengthBits);
    return raw(length >= 2, low, length >= 2 ? length - 1 : 1);
  }

 private:
  CCM_DEVICE static Event raw(bool coded, uint32_t value, int32_t bits) {
    return {coded, value << (kProbBits - bits), 1u << (kProbBits - bits)};
  }
};

// Thread i holds the state of the lane of symbol i of every round; states move on between steps (version 2).
class SequenceEncoder {
 public:
  // Sequence q of `sequences`. Words end at `end` and grow downwards; null: they are only counted, without a taper.
  CCM_DEVICE SequenceEncoder(const Source& source, StreamKind kind, int32_t sequences, int32_t q, uint8_t* end)
      : source_(source),
        version_(kind.version),
        each_(kind.lanes >> highest_bit(sequences)),
        sequences_(sequences),
        q_(q),
        taper_(kind.taper),
        end_(end),
        lanes_(each_) {}

  // False: this taper is not possible.
  CCM_DEVICE bool run() {
    lanes_ = lanes_at(source_.steps - 1);
    if (taper_ && !good_taper(each_, taper_, source_.positions, source_.left(source_.steps - 1))) return false;
    x_ = version_ == 2 ? first_state() : end_state(lanes_);
    if (!x_) return false;
    for (int32_t s = source_.steps - 1; s >= 0; --s) {
      for (int32_t first = last_round(s); first >= 0; first -= lanes_) {
        const RoundSymbol symbol = load(s, first);
        for (int phase = escapes(symbol) ? RoundSymbol::kPhases - 1 : 0; phase >= 0; --phase) push(symbol.event(phase));
      }
      if (s && !join(lanes_at(s - 1))) return false;
      x_ = turned(x_, s, false);
    }
    return true;
  }

  // Symbols of the sequence.
  CCM_DEVICE int32_t symbols() const {
    int32_t sum = 0;
    for (int32_t s = lane(); s < source_.steps; s += 32) sum += count(s);
#pragma unroll
    for (int by = 16; by; by /= 2) sum += __shfl_xor_sync(kWarp, sum, by);
    return sum;
  }

  // Bytes of the sequence, and of words behind them that lanes have joined with.
  CCM_DEVICE int64_t size() const { return 2 * (words_ - taken_) + head_bytes(); }
  CCM_DEVICE int64_t taken() const { return 2 * taken_; }

  // Writes states in front of the words.
  CCM_DEVICE void finish() const {
    uint8_t* at = end_ - taken() - size();
    const bool mine = lane() < lanes_;
    if (version_ == 2 && lanes_ > 1) {
      const unsigned longer = longer_states();
      if (lane() < flag_bytes(lanes_)) at[lane()] = static_cast<uint8_t>(longer >> (8 * lane()));
      at += flag_bytes(lanes_) + lane() * (kStateBytes - 1) + __popc(longer & ((1u << lane()) - 1));
    } else {
      at += lane() * kStateBytes;
    }
    const int32_t bytes = state_bytes();
    for (int32_t b = 0; mine && b < bytes; ++b) at[b] = static_cast<uint8_t>(x_ >> (8 * b));
  }

 private:
  // The end of the tail, where the first word is given away: a phase of a round, and the thread that does.
  struct Place {
    int32_t step, first;
    int phase;
    int32_t thread;
  };

  CCM_DEVICE int32_t lane() const { return static_cast<int32_t>(threadIdx.x & 31); }
  CCM_DEVICE int32_t lanes_at(int32_t step) const {
    return taper_ ? tapered_lanes(each_, taper_, source_.left(step)) : each_;
  }
  CCM_DEVICE int32_t count(int32_t step) const { return symbols_of_sequence(source_.count(step), sequences_, q_); }
  CCM_DEVICE int32_t last_round(int32_t step) const { return (count(step) - 1) & ~(lanes_ - 1); }
  CCM_DEVICE RoundSymbol load(int32_t step, int32_t first) const {
    const int32_t k = first + lane(), block = k / kSequenceLanes * sequences_ + q_;
    const int32_t i = sequences_ == 1 ? k : block * kSequenceLanes + k % kSequenceLanes;
    return {source_, lane() < lanes_ && k < count(step), source_.first(step) + i};
  }
  CCM_DEVICE static bool escapes(const RoundSymbol& symbol) { return __any_sync(kWarp, symbol.escaped); }

  // A value of each lane in the next step's order of them, or in that of the one before.
  CCM_DEVICE uint64_t turned(uint64_t v, int32_t step, bool forward) const {
    if (version_ != 2 || (!forward && step == 0)) return v;
    const int32_t by = next_turn(0, count(forward ? step : step - 1), lanes_);
    const int32_t from = (lane() + (forward ? by : lanes_ - by)) & (lanes_ - 1);
    const uint32_t low = __shfl_sync(kWarp, static_cast<uint32_t>(v), from);
    const uint32_t high = __shfl_sync(kWarp, static_cast<uint32_t>(v >> 32), from);
    return static_cast<uint64_t>(high) << 32 | low;
  }

  CCM_DEVICE static uint64_t extend(uint64_t x, const Event& e) {
    uint32_t remainder;
    const uint32_t quotient = divide(x, e.freq, remainder);
    return (static_cast<uint64_t>(quotient) << kProbBits) + remainder + e.start;
  }

  // Lanes that there are in the step before, too, start with the oldest words, of 32 bits each, which then need not be
  // written. False: there are too few.
  CCM_DEVICE bool join(int32_t lanes) {
    if (lanes == lanes_) return true;
    if (words_ - taken_ < 2 * (lanes - lanes_)) return false;
    __syncwarp();  // they have been written by other threads
    if (lane() >= lanes_ && lane() < lanes) {
      const uint8_t* const at = end_ - 2 * (taken_ + 2 * (lanes - 1 - lane()) + 2);
      x_ = kHandedOver;
      for (int b = 0; b < 4; ++b) x_ |= static_cast<uint64_t>(at[b ^ 2]) << (8 * b);
    }
    taken_ += 2 * (lanes - lanes_);
    lanes_ = lanes;
    return true;
  }

  // Where a lane starts: at kStateFirst, or higher if it would be below kStateLow when the first word is given away,
  // which is the last that a decoder takes (csrc/entropy/cpu/rans_encode.cpp). That can bring the first word forward.
  CCM_DEVICE uint64_t first_state() const {
    uint64_t first = kStateFirst;
    for (;;) {
      const Place end = first_word(first);
      if (end.step == kTooLate) return 0;
      if (end.step < 0) return first;
      const uint64_t least = least_start(end);
      if (!__any_sync(kWarp, lane() < lanes_ && first < least)) return first;
      while (first < least) first *= 2;
    }
  }

  // Step -1: there is none; kTooLate: none before more lanes join.
  static constexpr int32_t kTooLate = -2;
  CCM_DEVICE Place first_word(uint64_t x) const {
    for (int32_t s = source_.steps - 1; s >= 0; --s) {
      for (int32_t first = last_round(s); first >= 0; first -= lanes_) {
        const RoundSymbol symbol = load(s, first);
        for (int phase = escapes(symbol) ? RoundSymbol::kPhases - 1 : 0; phase >= 0; --phase) {
          const Event e = symbol.event(phase);
          const unsigned due = __ballot_sync(kWarp, e.active && rans_due(x, e.freq));
          if (due) return {s, first, phase, highest_bit(due)};
          if (e.active) x = extend(x, e);
        }
      }
      if (s && lanes_at(s - 1) != lanes_) return {kTooLate, 0, 0, 0};
      x = turned(x, s, false);
    }
    return {-1, 0, 0, 0};
  }

  // What a lane has to start with to be at kStateLow there, in the last step's order of lanes: decoding from there on.
  CCM_DEVICE uint64_t least_start(const Place& end) const {
    uint64_t least = kStateLow;
    for (int32_t s = end.step; s < source_.steps; ++s) {
      const int32_t n = count(s);
      for (int32_t first = s == end.step ? end.first : 0; first < n; first += lanes_) {
        const RoundSymbol symbol = load(s, first);
        const bool here = s == end.step && first == end.first;
        for (int phase = here ? end.phase : 0; phase < RoundSymbol::kPhases; ++phase) {
          const Event e = symbol.event(phase);
          if (e.active && (!here || phase != end.phase || lane() > end.thread))
            least = least_before(least, e.start, e.freq);
        }
      }
      if (s + 1 < source_.steps) least = turned(least, s, true);
    }
    return least;
  }

  // One phase of a round: the last lane first, so that a decoder meets the words in the order of lanes.
  CCM_DEVICE void push(const Event& e) {
    const bool emit = e.active && rans_due(x_, e.freq);
    const unsigned mask = __ballot_sync(kWarp, emit);
    if (emit) {
      const unsigned above = mask & ~((2u << lane()) - 1);
      if (end_) {
        uint8_t* to = end_ - 2 * (words_ + __popc(above) + 1);
        to[0] = static_cast<uint8_t>(x_);
        to[1] = static_cast<uint8_t>(x_ >> 8);
      }
      x_ >>= 16;
    }
    words_ += __popc(mask);
    if (e.active) x_ = extend(x_, e);
  }

  // Lanes whose state has kStateBytes bytes in a stream of version 2.
  CCM_DEVICE unsigned longer_states() const { return __ballot_sync(kWarp, lane() < lanes_ && x_ >= kStateLong); }
  // Of this thread's lane.
  CCM_DEVICE int32_t state_bytes() const {
    if (version_ == 1) return kStateBytes;
    if (lanes_ == 1 && !words_) return bytes_of_last_state(x_);
    return kStateBytes - (x_ < kStateLong);
  }
  CCM_DEVICE int32_t head_bytes() const {
    const int32_t longer = __popc(longer_states());
    if (lanes_ == 1) return __shfl_sync(kWarp, state_bytes(), 0);
    return version_ == 1 ? lanes_ * kStateBytes : flag_bytes(lanes_) + lanes_ * (kStateBytes - 1) + longer;
  }

  const Source& source_;
  const int32_t version_, each_, sequences_, q_, taper_;
  uint8_t* const end_;
  int32_t lanes_;
  uint64_t x_ = 0;
  int64_t words_ = 0, taken_ = 0;
};

CCM_DEVICE Source source_of(const EncodeArgs& a, int32_t image, int32_t group) {
  const DeviceModel& m = *a.model;
  if (!a.coded) {
    const int16_t* z = a.z + static_cast<int64_t>(image) * a.positions * m.hyper_channels;
    return {m, m.z_rows, nullptr, nullptr, z, 1, a.positions, nullptr};
  }
  const uint64_t* coded = a.coded + static_cast<int64_t>(image) * a.positions * m.latent_channels +
                          static_cast<int64_t>(a.positions) * m.group[group].first_channel;
  const int32_t* ends = a.ends + static_cast<int64_t>(image * m.groups + group) * a.positions;
  const GroupOrder order = a.order.of(group);
  return {m, m.y_rows, ends, coded, nullptr, order.steps, a.positions, order.first};
}

// The whole block. Whether a decoder accepts every value of z; of y, latents_kernel has looked at them.
CCM_DEVICE bool codable(const EncodeArgs& a, const Source& s) {
  bool fine = true;
  const int32_t* values = s.m.at<int32_t>(s.m.z_values);
#pragma unroll 1
  for (int32_t c = threadIdx.x & 31; !a.coded && c < s.m.hyper_channels; c += 32)
#pragma unroll 1
    for (int32_t p = threadIdx.x / 32; p < a.positions; p += blockDim.x / 32) {
      const int32_t v = s.z[static_cast<int64_t>(p) * s.m.hyper_channels + c];
      fine = fine && v != -32768 && (values[c] == kCodedChannel || v == values[c]);
    }
  return __syncthreads_and(fine);
}

// The whole block moves bytes upwards, the last ones first.
CCM_DEVICE void move_up(uint8_t* to, const uint8_t* from, int64_t size) {
  if (to == from) return;
#pragma unroll 1
  for (int64_t left = size; left > 0; left -= blockDim.x) {
    const int64_t i = left - 1 - threadIdx.x;
    const uint8_t byte = i >= 0 ? from[i] : 0;
    __syncthreads();
    if (i >= 0) to[i] = byte;
    __syncthreads();
  }
}

// What the sequences of a stream take of its room.
struct SequenceSizes {
  int64_t bytes[kMostSequences], taken[kMostSequences];
  int32_t symbols[kMostSequences];
};

// The whole block, a warp a sequence, each in a room of its own, that of later ones behind it up to `end`. False: this
// taper is not possible.
CCM_DEVICE bool encode_sequences(const Source& source, StreamKind kind, int32_t sequences, uint8_t* end,
                                 SequenceSizes* sizes) {
  const int32_t warp = threadIdx.x / 32, lane = threadIdx.x & 31;
  __syncthreads();  // all have read what is there
  if (warp < sequences) {
    const int32_t own = SequenceEncoder(source, kind, sequences, warp, nullptr).symbols();
    if (lane == 0) sizes->symbols[warp] = own;
  }
  __syncthreads();
  bool possible = true;
  if (warp < sequences) {
    for (int32_t q = warp + 1; q < sequences; ++q) end -= 6 * static_cast<int64_t>(sizes->symbols[q]) + kHeadRoom;
    SequenceEncoder encoder(source, kind, sequences, warp, end);
    possible = encoder.run();
    if (possible) {
      encoder.finish();
      const int64_t size = encoder.size();
      if (lane == 0) sizes->bytes[warp] = size, sizes->taken[warp] = encoder.taken();
    }
  }
  return __syncthreads_and(possible);
}

CCM_DEVICE int32_t sequences_of_lanes(int32_t lanes) { return lanes <= kSequenceLanes ? 1 : lanes / kSequenceLanes; }

}  // namespace

// Grid: streams of an image, images.
__global__ void __launch_bounds__(kEncodeThreads, 1) encode_kernel(const EncodeArgs a) {
  CCM_SHARED(chosen, int32_t[2]);
  CCM_SHARED(own_sizes, SequenceSizes);
  const int32_t group = blockIdx.x, image = blockIdx.y, warp = threadIdx.x / 32, lane = threadIdx.x & 31;
  const int64_t stream = static_cast<int64_t>(image) * gridDim.x + group;
  uint8_t* const end = a.out.data + (stream + 1) * a.out.capacity;
  int64_t* segment = a.out.segments + stream * 3;
  const Source source = source_of(a, image, group);
  if ((a.skip && a.skip[image] != kOk) || !codable(a, source)) {
    // No bytes of version 1: no decoder takes them for a stream.
    if (threadIdx.x < 3) segment[threadIdx.x] = threadIdx.x == 2;
    return;
  }
  StreamKind kind = stream_kind(a.lanes);
  kind.taper = 0;
  const bool has_steps = a.coded && kind.version == 2 && source.steps > 1;
  int32_t most = kind.lanes;  // to try with a taper
  if (kind.lanes == 0) {
    if (warp == 0) {
      SequenceEncoder one(source, {kind.version, 1}, 1, 0, nullptr);
      one.run();
      const int64_t payload = one.size();
      if (lane == 0) {
        const bool old = kind.version == 1;
        chosen[0] = old ? lanes_for_payload(payload) : lanes_for_symbols(source.all(), payload, a.rule);
        chosen[1] = has_steps ? lanes_for_symbols(source.all(), payload, a.rule, true) : chosen[0];
      }
    }
    __syncthreads();
    kind.lanes = chosen[0];
    most = chosen[1];
  }
  SequenceSizes* const sizes = &own_sizes;
  bool found = false;
#pragma unroll 1
  for (StreamKind tapered{2, most}; has_steps && !found && may_taper(tapered.lanes) && tapered.lanes >= kind.lanes;
       tapered.lanes /= 2)
#pragma unroll 1
    for (tapered.taper = 1; !found && tapered.taper < kTapers; ++tapered.taper) {
      found = encode_sequences(source, tapered, sequences_of_lanes(tapered.lanes), end, sizes);
      if (found) kind = tapered;
    }
  const int32_t sequences = sequences_of_lanes(kind.lanes);
  if (!found) encode_sequences(source, kind, sequences, end, sizes);
  uint8_t *begin = end, *room_end = end;
  for (int32_t q = sequences - 1; q >= 0; --q) {
    begin -= sizes->bytes[q];
    move_up(begin, room_end - sizes->taken[q] - sizes->bytes[q], sizes->bytes[q]);
    room_end -= 6 * static_cast<int64_t>(sizes->symbols[q]) + kHeadRoom;
  }
  if (threadIdx.x != 0) return;
  // Lengths of all sequences but the last, the last of them first.
  for (int32_t q = sequences - 2; q >= 0; --q) {
    int32_t bytes = 1;
    for (int64_t rest = sizes->bytes[q] >> 7; rest; rest >>= 7) ++bytes;
    begin -= bytes;
    for (int32_t b = 0; b < bytes; ++b)
      begin[b] = static_cast<uint8_t>((sizes->bytes[q] >> (7 * b) & 127) | (b + 1 < bytes ? 128 : 0));
  }
  segment[0] = begin - a.out.data;
  segment[1] = end - begin;
  segment[2] = stream_code(kind);
}

cudaError_t launch_encode(const EncodeArgs& a, int32_t streams, cudaStream_t stream) {
  return launch(encode_kernel, dim3(streams, a.batch), dim3(kEncodeThreads), 0, stream, false, a);
}

}  // namespace ccm
