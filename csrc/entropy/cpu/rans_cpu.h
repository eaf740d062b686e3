// rANS streams on the CPU (FORMAT.md, section 5).
#pragma once
#include <cstddef>
#include <cstdint>
#include <vector>

#include "base/status.h"
#include "entropy/cpu/rans_kernels.h"
#include "format/rans.h"
#include "format/tables.h"

namespace ccm {

// Decodes one sequence of words: a stream of version 1, or a part of one of version 2. Reads nothing outside the given
// bytes: without a word that it needs it goes on and remembers that.
class SequenceDecoder {
 public:
  // At most kSequenceLanes lanes. One too short for its states starts out truncated.
  SequenceDecoder(const uint8_t* data, size_t size, StreamKind kind, Vectors vectors);

  // As those of StreamDecoder.
  bool decode(const Rows& tables, const uint16_t* rows, const int16_t* offsets, int32_t n, int16_t* out);
  void end_step();
  // So many lanes are left from the next step on; the others hand over what they hold.
  void retire(int32_t lanes);
  int32_t lanes() const { return lanes_; }
  Status finish() const;
  bool over() const { return truncated_ || (version_ == 2 && damaged_); }

 private:
  void read_states(const uint8_t* data, size_t size);
  void read_states_of_2(const uint8_t* data, size_t size);
  uint64_t read_state(const uint8_t* data, int bytes);
  int32_t checked_rounds(const Rows& tables, const uint16_t* rows, int32_t n, int16_t* out, uint32_t& escaped);
  void add_offsets(const int16_t* offsets, int32_t n, int16_t* out);
  void decode_escapes(const Rows& tables, const uint16_t* rows, const int16_t* offsets, uint32_t lanes, int16_t* out);
  uint32_t raw_bits(int32_t lane, int32_t bits);
  void refill(uint64_t& x);
  void use_lanes(int32_t lanes);

  uint64_t state_[kMaxLanes];  // of the lane whose turn it is first, of the next one and so on
  uint64_t least_state_;       // below it a state without a word is an error
  const uint8_t* next_;
  const uint8_t* end_;
  RansRounds plain_ = nullptr, vector_ = nullptr;
  Vectors vectors_;
  bool simd_;  // whether plain code searches rows by SSE2
  int32_t version_, lanes_ = 0;
  std::vector<uint8_t> words_;  // once lanes have retired: what is left, and what they have handed over
  int32_t in_step_ = 0;         // symbols of this step so far
  bool truncated_ = false;
  bool damaged_ = false;
};

// Decodes one stream, step by step.
class StreamDecoder {
 public:
  // code: of valid_streams().
  StreamDecoder(const uint8_t* data, size_t size, int64_t code, Vectors vectors = Vectors::kBest);

  // The next n symbols of a step: out[i] = symbol of row rows[i] + offsets[i] (null: zeros). A step may be cut where a
  // multiple of kMostLanes symbols have been decoded. Returns false once the stream is known to be bad; then the values
  // are meaningless, some not written, and decoding should stop.
  bool decode(const Rows& tables, const uint16_t* rows, const int16_t* offsets, int32_t n, int16_t* out);
  // To be called before each step of a stream that may have a taper; left: positions that are not decoded yet. False:
  // the stream is bad.
  bool begin_step(int32_t left);
  // To be called after each step, the empty ones too.
  void end_step();
  // A whole step.
  bool decode_step(const Rows& tables, const uint16_t* rows, const int16_t* offsets, int32_t n, int16_t* out) {
    const bool good = decode(tables, rows, offsets, n, out);
    end_step();
    return good;
  }

  // After the last step: whether everything was as it must be.
  Status finish() const;
  // Whether it is known already that, and how, finish() will not be kOk.
  bool over() const;

 private:
  std::vector<SequenceDecoder> sequences_;
  Status status_ = kOk;  // whether its sequences fit into it
  int32_t taper_ = 0;
  bool begun_ = false;
  // Of the symbols of one of several sequences.
  std::vector<uint16_t> rows_;
  std::vector<int16_t> offsets_, out_;
};

// One symbol to encode: a row and the value relative to its offset.
struct Coded {
  int32_t value;
  uint16_t row;
};

// Encodes symbols of consecutive steps; steps[s] is the number of symbols in step s. `code`: of valid_streams(), or
// with 0 lanes: they are chosen (lanes_for_payload, lanes_for_symbols); the code with their number and the taper is
// stored through code_used. first: [steps + 1] the first position of each step, for a taper; empty: without one.
std::vector<uint8_t> encode_stream(const Rows& tables, const std::vector<Coded>& symbols,
                                   const std::vector<int32_t>& steps, int32_t code, int32_t* code_used,
                                   LaneRule rule = kLanesOfY, const std::vector<int32_t>& first = {});

}  // namespace ccm
