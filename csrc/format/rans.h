// rANS with 40-bit states, 16-bit words and 16-bit probabilities (FORMAT.md, section 5), shared by host and device.
//
// Things that surprise: the encoder runs backwards over the symbols and writes its words backwards, so that the decoder
// runs forwards over both. A decoder refills at most once per symbol: x >= 2^24 before a symbol means
// freq * (x >> 16) >= 2^8 after it, and one 16-bit word lifts that back to 2^24.
#pragma once
#include <cstdint>

#include "base/platform.h"

namespace ccm {

constexpr int kProbBits = 16;
constexpr uint32_t kProbMask = (1u << kProbBits) - 1;
// Lower bound of the state. With 2^16 (32-bit states) the state is too coarse beside 16-bit probabilities: +0.11 to
// +0.19 % in rate, measured on Gaussian latents; with 2^24 the loss is below 0.001 % and a lane costs one byte more.
constexpr uint64_t kStateLow = uint64_t{1} << 24;
constexpr int kStateBytes = 5;
// Where an encoder starts, and so where a decoder ends. A stream with one lane starts lower, which saves a byte: its
// last symbols then leave states below kStateLow when no word is left, and that is no error. (With several lanes a lane
// could not know whether the remaining words are its own.) Lower still gains nothing: below 2^16 a state is coarser
// than the probabilities.
constexpr uint64_t kStateEndOfOne = uint64_t{1} << 16;
constexpr int kMaxLanes = 32;
// Version 2 (FORMAT.md). Lanes of a sequence of words, and of all sequences of a stream.
constexpr int kSequenceLanes = 32;
constexpr int kMostLanes = 128;
// Where an encoder of version 2 starts a lane: 3 * 2^6, and twice as much as often as it takes for the lane to be at
// kStateLow when the stream's last word is taken. A decoder refills only while words are left, so lanes may end there.
// Starting at 1 would save nothing, since a first symbol takes any state below 2^16 to its slot, and damage would show
// less: a flipped bit never leads from one of these to another one within a symbol.
constexpr uint64_t kStateFirst = 3 << 6;
constexpr uint64_t kStateLast = 3 << 23;
// From here on a state has kStateBytes bytes in a stream of version 2, below one less.
constexpr uint64_t kStateLong = uint64_t{1} << 32;
// Lanes by which the next step's first symbol is moved on beyond its turn: without it, the lanes of steps whose symbols
// are a multiple of the lanes (48 channels) would always code the same channels, and some would carry little.
constexpr int kStepTurn = 5;
// Escapes: 5 equiprobable bits for the bit length (0..17) of the magnitude, then its low bits.
constexpr int kEscapeLengthBits = 5;
constexpr int kEscapeMaxLength = 17;

// Undo one symbol with cumulative range [start, start + freq); `slot` = x & kProbMask. The caller refills.
CCM_HD uint64_t rans_advance(uint64_t x, uint32_t slot, uint32_t start, uint32_t freq) {
  return static_cast<uint64_t>(freq) * static_cast<uint32_t>(x >> kProbBits) + slot - start;
}

// Whether a state has to shrink by a word before it takes a symbol: 2^40 / 2^16 keeps the new one below 2^40.
CCM_HD bool rans_due(uint64_t x, uint32_t freq) { return x >= (static_cast<uint64_t>(freq) << 24); }

// The state with one symbol more.
CCM_HD uint64_t rans_extend(uint64_t x, uint32_t start, uint32_t freq) {
  return ((x / freq) << kProbBits) + x % freq + start;
}

CCM_HD uint64_t end_state(int32_t lanes) { return lanes == 1 ? kStateEndOfOne : kStateLow; }

// How operators and engines name streams: the number of lanes, this more where the stream is of version 2, and its
// taper above that. 0 lanes leave an encoder the choice; it always finds the taper itself.
constexpr int kVersion2 = 256;
constexpr int kTaperShift = 12, kTapers = 16;

struct StreamKind {
  int32_t version, lanes;
  int32_t taper = 0;
};

CCM_HD StreamKind stream_kind(int64_t code) {
  const int32_t rest = static_cast<int32_t>(code & ((1 << kTaperShift) - 1));
  const bool second = rest >= kVersion2;
  return {second ? 2 : 1, second ? rest - kVersion2 : rest, static_cast<int32_t>(code >> kTaperShift)};
}

CCM_HD int32_t stream_code(StreamKind kind) {
  return kind.lanes + (kind.version == 2 ? kVersion2 : 0) + (kind.taper << kTaperShift);
}

// Positions for each lane of a sequence towards the end of a stream, by its taper: 1, 2, 3, 4, 6, 8, 12 .. 192. 0: its
// lanes stay to the end.
CCM_HD int32_t taper_positions(int32_t taper) { return taper < 2 ? taper : (2 + (taper & 1)) << (taper / 2 - 1); }

// Lanes in a step before which `left` positions are not decoded yet, of `lanes` at first.
CCM_HD int32_t tapered_lanes(int32_t lanes, int32_t taper, int32_t left) {
  while (lanes > 1 && lanes * taper_positions(taper) > left) lanes /= 2;
  return lanes;
}

// Whether an encoder takes a taper. Of `positions`, the last quarter may have fewer lanes: they take longer. In the
// last step, of `last`, a quarter of the lanes may be left: what does not retire costs three times as much.
CCM_HD bool good_taper(int32_t lanes, int32_t taper, int32_t positions, int32_t last) {
  const int32_t left = tapered_lanes(lanes, taper, last);
  return 4 * lanes * taper_positions(taper) <= positions && (left == 1 || 4 * left <= lanes) && left < lanes;
}

CCM_HD bool may_taper(int32_t lanes) { return lanes > 1 && lanes <= kSequenceLanes; }

// What a lane that retires has to hold, above 32 bits that it hands over: so it can be neither too small nor too large
// for a lane.
constexpr uint64_t kHandedOver = uint64_t{1} << 32;

// Whether a lane of version 2 may end here.
CCM_HD bool valid_end(uint64_t x) {
  // 3 * 2^k is its lowest bit and twice that.
  return x >= kStateFirst && x <= kStateLast && x == 3 * (x & (~x + 1));
}

// Bytes of flags before the states of a sequence with several lanes.
CCM_HD int32_t flag_bytes(int32_t lanes) { return lanes < 8 ? 1 : lanes / 8; }

// The lane of the next step's first symbol, after a step of which the sequence had n.
CCM_HD int32_t next_turn(int32_t turn, int32_t n, int32_t lanes) {
  return static_cast<int32_t>((static_cast<uint32_t>(turn) + static_cast<uint32_t>(n) + kStepTurn) &
                              static_cast<uint32_t>(lanes - 1));
}

// The most lanes whose states cost at most a quarter of a percent of a payload (bytes, coded with one lane): a file of
// 10 kB and more then stays within half a percent of its ideal length, headers included. Not part of the format: a
// decoder takes the number from the header.
CCM_HD int32_t lanes_for_payload(int64_t payload) {
  int32_t lanes = 1;
  while (lanes < kMaxLanes && 2 * lanes * kStateBytes * 400 <= payload) lanes *= 2;
  return lanes;
}

// Enough lanes for so many rounds, as long as they cost at most one byte in `share` of the payload.
struct LaneLimit {
  int32_t rounds, share;
};

// How an encoder of version 2 chooses lanes: as many as either limit allows. The second one is for streams of many
// symbols of few bits, which everything else would wait for on a GPU: their lanes may cost more. z has one limit: a GPU
// waits for z before anything else, and z is a small share of a file (four lanes are 0.02 % of a photograph's).
// The third limit is for streams with a taper, whose lanes cost a third.
struct LaneRule {
  LaneLimit usual, most_rounds, tapered;
};
constexpr LaneRule kLanesOfY{{2500, 220}, {6000, 70}, {400, 200}}, kLanesOfZ{{100, 10}, {100, 10}, {0, 0}};
// Bytes of a lane, in quarters; with a taper (benchmarks/lanes.py).
constexpr int32_t kLaneQuarters = 9, kTaperedLaneQuarters = 3;

// payload: bytes, coded with one lane. Not part of the format. tapered: the lanes to try with a taper, at least those
// without.
CCM_HD int32_t lanes_for_symbols(int64_t coded, int64_t payload, LaneRule rule, bool tapered = false) {
  int32_t lanes = 1;
  const auto more = [&](LaneLimit limit, int32_t quarters) {
    return limit.share > 0 && coded > static_cast<int64_t>(lanes) * limit.rounds &&
           static_cast<int64_t>(2 * lanes) * quarters * limit.share <= 4 * payload;
  };
  while (lanes < kMostLanes && (more(rule.usual, kLaneQuarters) || more(rule.most_rounds, kLaneQuarters) ||
                                (tapered && lanes < kSequenceLanes && more(rule.tapered, kTaperedLaneQuarters))))
    lanes *= 2;
  return lanes;
}

CCM_HD bool valid_lanes(int64_t lanes) { return lanes >= 1 && lanes <= kMaxLanes && (lanes & (lanes - 1)) == 0; }

// The same with kVersion2 and a taper, which streams of one sequence and several lanes may have.
CCM_HD bool valid_streams(int64_t code) {
  if (code < 0 || code >= int64_t{kTapers} << kTaperShift) return false;
  const StreamKind kind = stream_kind(code);
  if (kind.version == 1) return kind.taper == 0 && valid_lanes(kind.lanes);
  const bool lanes = kind.taper > 0 ? may_taper(kind.lanes) : kind.lanes >= 1 && kind.lanes <= kMostLanes;
  return lanes && (kind.lanes & (kind.lanes - 1)) == 0;
}

}  // namespace ccm
