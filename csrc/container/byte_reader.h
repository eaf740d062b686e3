// Bounded reading of bytes that an attacker may have written, and LEB128 varints in their one allowed spelling.
#pragma once
#include <cstddef>
#include <cstdint>
#include <string>

#include "base/error.h"
#include "base/little_endian.h"

namespace ccm {

// A run of somebody's bytes.
struct Span {
  const uint8_t* data = nullptr;
  size_t size = 0;
};

class ByteReader {
 public:
  explicit ByteReader(Span all) : all_(all) {}

  size_t position() const { return position_; }
  size_t left() const { return all_.size - position_; }

  // The next `count` bytes. Throws Error (kTruncated), naming `what`, if there are fewer.
  Span take(uint64_t count, const std::string& what) {
    if (count > left()) throw Error(ErrorCode::kTruncated, "the data ends inside " + what);
    const Span part{all_.data + position_, static_cast<size_t>(count)};
    position_ += part.size;
    return part;
  }

  uint8_t byte(const std::string& what) { return *take(1, what).data; }

  // Unsigned, below 2^35. Throws Error: kTruncated, or kDamaged for more than five bytes or a superfluous last one.
  uint64_t varint(const std::string& what) {
    constexpr int kMostBytes = 5;
    uint64_t value = 0;
    for (int k = 0; k < kMostBytes; ++k) {
      const uint8_t next = byte(what);
      value |= static_cast<uint64_t>(next & 0x7f) << 7 * k;
      if (next < 0x80) {
        if (next == 0 && k) break;
        return value;
      }
    }
    throw Error(ErrorCode::kDamaged, "malformed varint in " + what);
  }

  // Little-endian.
  uint32_t u32(const std::string& what) { return load_u32(take(4, what).data); }

 private:
  Span all_;
  size_t position_ = 0;
};

}  // namespace ccm
