// The packet: header, z payload and y payload of one picture (FORMAT.md, section 6).
#pragma once
#include <array>
#include <cstdint>
#include <vector>

#include "container/byte_reader.h"

namespace ccm {

constexpr int64_t kMaxSide = int64_t{1} << 20;
constexpr int64_t kDefaultMaxPixels = 178956970;  // Pillow's, above which it raises DecompressionBombError
constexpr int32_t kMaxQualityCode = 224;
constexpr int64_t kLatentPixels = 16;  // pixels that a latent of y spans in each direction
constexpr int64_t kHyperLatents = 4;   // latents of y that one of z spans

using Fingerprint = std::array<uint8_t, 8>;

// What a header says without knowing the model.
struct PacketHead {
  int64_t width = 0, height = 0;  // pixels
  int32_t quality_code = 0;       // quality = 1 + quality_code / 32
  Fingerprint fingerprint{};
  bool grey = false, single = false;  // single: every stream has one lane
  bool tapered = false;               // some streams have tapers
  int32_t version = 1;                // of the streams, 1 or 2

  double quality() const { return 1 + quality_code / 32.0; }
  int64_t h() const { return (height + kLatentPixels - 1) / kLatentPixels; }  // rows of y
  int64_t w() const { return (width + kLatentPixels - 1) / kLatentPixels; }
  int64_t hz() const { return (h() + kHyperLatents - 1) / kHyperLatents; }  // rows of z
  int64_t wz() const { return (w() + kHyperLatents - 1) / kHyperLatents; }
};

// One rANS stream; a view into the packet.
struct Stream {
  Span data;
  int32_t code;  // of valid_streams()
};

struct Packet : PacketHead {
  std::vector<Stream> streams;  // z's, then each group's; those of groups that are not read are empty
  int32_t groups_read = 0;
};

// The version that a packet's first byte says, 1 or 2.
int32_t packet_version(uint8_t flags);

// Size, quality, fingerprint and flags; checks no more than these. max_pixels <= 0: no limit beyond the format's.
// Throws Error: kTruncated, kDamaged, kUnsupported or kLimit.
PacketHead peek_packet(Span packet, int64_t max_pixels);

// The whole packet of a model with so many groups, checksum included. Throws as peek_packet.
Packet parse_packet(Span packet, int32_t groups, int64_t max_pixels);

// The same up to the first `read` groups' streams, less than all: what follows is not looked at and may be missing. The
// checksum, which is of the whole, is not checked.
Packet parse_preview(Span packet, int32_t groups, int32_t read, int64_t max_pixels);

}  // namespace ccm
