#include "container/packet.h"

#include <algorithm>
#include <string>

#include "base/crc32c.h"
#include "format/rans.h"
#include "model/model.h"

namespace ccm {
namespace {

constexpr uint8_t kGrey = 1, kSingle = 2, kOfVersion2 = 4, kTapered = 8;
constexpr uint64_t kWordBytes = 2;

std::string pixels(int64_t width, int64_t height) {
  return "image of " + std::to_string(width) + "x" + std::to_string(height) + " pixels";
}

void check_size(int64_t width, int64_t height, int64_t max_pixels) {
  if (width < 1 || width > kMaxSide || height < 1 || height > kMaxSide)
    throw Error(ErrorCode::kLimit, pixels(width, height) + ": sides are 1 to " + std::to_string(kMaxSide));
  if (max_pixels > 0 && width * height > max_pixels)
    throw Error(ErrorCode::kLimit, pixels(width, height) + " is above the limit of " + std::to_string(max_pixels) +
                                       " pixels (max_pixels)");
}

PacketHead read_head(ByteReader& reader, int64_t max_pixels) {
  PacketHead head;
  const uint8_t flags = reader.byte("the packet header");
  if (flags & ~(kGrey | kSingle | kOfVersion2 | kTapered) || (flags & kTapered && !(flags & kOfVersion2)))
    throw Error(ErrorCode::kUnsupported, "unknown packet flags " + std::to_string(flags));
  const Span print = reader.take(head.fingerprint.size(), "the packet header");
  std::copy_n(print.data, print.size, head.fingerprint.begin());
  head.width = static_cast<int64_t>(reader.varint("the image's width"));
  head.height = static_cast<int64_t>(reader.varint("the image's height"));
  check_size(head.width, head.height, max_pixels);
  head.quality_code = reader.byte("the packet header");
  if (head.quality_code > kMaxQualityCode)
    throw Error(ErrorCode::kDamaged,
                "quality code " + std::to_string(head.quality_code) + " is above " + std::to_string(kMaxQualityCode));
  head.grey = flags & kGrey;
  head.single = flags & kSingle;
  head.tapered = flags & kTapered;
  if (head.single && head.tapered) throw Error(ErrorCode::kDamaged, "tapers of streams with one lane each");
  head.version = packet_version(flags);
  return head;
}

// Lane counts of z and of every group, three bits each.
std::vector<int32_t> read_lanes(ByteReader& reader, const PacketHead& head, int32_t groups) {
  std::vector<int32_t> lanes(static_cast<size_t>(groups) + 1, 1);
  if (head.single) return lanes;
  const int32_t bits = 3 * (groups + 1);
  const Span packed = reader.take(static_cast<uint64_t>((bits + 7) / 8), "the lane counts");
  const auto bit = [&](int32_t k) { return packed.data[k / 8] >> k % 8 & 1; };
  int32_t most = 0;
  for (int32_t k = 0; k <= groups; ++k) {
    const int32_t log = bit(3 * k) | bit(3 * k + 1) << 1 | bit(3 * k + 2) << 2;
    most = std::max(most, log);
    lanes[k] = 1 << log;
  }
  for (int32_t k = bits; k < static_cast<int32_t>(packed.size) * 8; ++k)
    if (bit(k)) throw Error(ErrorCode::kDamaged, "the spare bits of the lane counts are not zero");
  if (head.version == 1 && !valid_lanes(1 << most))
    throw Error(ErrorCode::kDamaged, "a lane count of 2^" + std::to_string(most) + " is above 32");
  if (!most) throw Error(ErrorCode::kDamaged, "lane counts that should have been left out");
  return lanes;
}

// Tapers of every group, four bits each.
std::vector<int32_t> read_tapers(ByteReader& reader, const PacketHead& head, const std::vector<int32_t>& lanes) {
  std::vector<int32_t> tapers(lanes.size());  // z has none
  if (!head.tapered) return tapers;
  const size_t groups = lanes.size() - 1;
  const Span packed = reader.take((groups + 1) / 2, "the tapers");
  for (size_t g = 0; g < groups; ++g) {
    tapers[g + 1] = packed.data[g / 2] >> 4 * (g % 2) & 15;
    if (tapers[g + 1] && !may_taper(lanes[g + 1]))
      throw Error(ErrorCode::kDamaged, "a taper of a stream with " + std::to_string(lanes[g + 1]) + " lanes");
  }
  if (groups % 2 && packed.data[groups / 2] >> 4)
    throw Error(ErrorCode::kDamaged, "the spare bits of the tapers are not zero");
  if (std::all_of(tapers.begin(), tapers.end(), [](int32_t t) { return t == 0; }))
    throw Error(ErrorCode::kDamaged, "tapers that should have been left out");
  return tapers;
}

[[noreturn]] void cut_off() { throw Error(ErrorCode::kTruncated, "the data ends inside the stream of the last group"); }

// A packet as far as its first `read` groups; with all of them its checksum, too.
Packet parse(Span packet, int32_t groups, int32_t read, int64_t max_pixels) {
  if (groups < 1 || groups > kMaxGroups)
    throw Error(ErrorCode::kLimit, std::to_string(groups) + " groups: the format has 1 to 32");
  ByteReader reader(packet);
  Packet out;
  static_cast<PacketHead&>(out) = read_head(reader, max_pixels);
  out.groups_read = read;
  const std::vector<int32_t> lanes = read_lanes(reader, out, groups);
  const std::vector<int32_t> tapers = read_tapers(reader, out, lanes);
  const auto states = [&](int32_t k) { return static_cast<uint64_t>(kStateBytes) * lanes[k]; };
  const auto code = [&](int32_t k) { return stream_code({out.version, lanes[k], tapers[k]}); };
  std::vector<uint64_t> sizes;
  for (int32_t k = 0; k < groups; ++k) {
    const uint64_t length = reader.varint("the lengths of the streams");  // in version 1 of the words
    sizes.push_back(out.version == 2 ? length : states(k) + kWordBytes * length);
  }
  const size_t end = reader.position();
  const uint32_t stored = reader.u32("the checksum");
  for (int32_t k = 0; k <= std::min(read, groups - 1); ++k) {
    const std::string what = k ? "the stream of group " + std::to_string(k - 1) : "the stream of z";
    out.streams.push_back({reader.take(sizes[k], what), code(k)});
  }
  if (read < groups) {
    out.streams.resize(static_cast<size_t>(groups) + 1, Stream{{}, 1 + kVersion2});
    return out;
  }
  const uint64_t rest = reader.left();
  if (out.version == 1 && rest < states(groups)) cut_off();
  const uint64_t spare = out.version == 1 ? (rest - states(groups)) % kWordBytes : 0;
  out.streams.push_back({reader.take(rest - spare, "the stream of the last group"), code(groups)});
  uint32_t crc = crc32c(packet.data, end, 0);
  for (const Stream& s : out.streams) crc = crc32c(s.data.data, s.data.size, crc);
  if (spare && crc == stored) throw Error(ErrorCode::kDamaged, "a byte too many after the stream of the last group");
  if (spare) cut_off();
  if (crc != stored) throw Error(ErrorCode::kDamaged, "the checksum does not match: the data is damaged or cut off");
  return out;
}

}  // namespace

int32_t packet_version(uint8_t flags) { return flags & kOfVersion2 ? 2 : 1; }

PacketHead peek_packet(Span packet, int64_t max_pixels) {
  ByteReader reader(packet);
  return read_head(reader, max_pixels);
}

Packet parse_packet(Span packet, int32_t groups, int64_t max_pixels) {
  return parse(packet, groups, groups, max_pixels);
}

Packet parse_preview(Span packet, int32_t groups, int32_t read, int64_t max_pixels) {
  if (read < 0 || read >= groups)
    throw Error(ErrorCode::kArgument, "a preview has 0 to " + std::to_string(groups - 1) + " groups of this model");
  return parse(packet, groups, read, max_pixels);
}

}  // namespace ccm
