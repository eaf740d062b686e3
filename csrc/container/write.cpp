#include "container/write.h"

#include <algorithm>

#include "base/crc32c.h"
#include "format/rans.h"

namespace ccm {
namespace {

using Bytes = std::vector<uint8_t>;

void put_varint(Bytes& to, uint64_t value) {
  for (; value > 0x7f; value >>= 7) to.push_back(static_cast<uint8_t>(value | 0x80));
  to.push_back(static_cast<uint8_t>(value));
}

void put_u32(Bytes& to, uint32_t value) {
  for (int k = 0; k < 4; ++k) to.push_back(static_cast<uint8_t>(value >> 8 * k));
}

void put(Bytes& to, Span span) { to.insert(to.end(), span.data, span.data + span.size); }

int32_t log2_of(int32_t lanes) {
  int32_t log = 0;
  while (1 << log < lanes) ++log;
  return log;
}

Bytes header_of(const PacketHead& head, const std::vector<Stream>& streams) {
  constexpr uint8_t kGrey = 1, kSingle = 2, kOfVersion2 = 4, kTapered = 8;
  const auto lanes = [](const Stream& s) { return stream_kind(s.code).lanes; };
  const bool single = std::all_of(streams.begin(), streams.end(), [&](const Stream& s) { return lanes(s) == 1; });
  const auto taper = [](const Stream& s) { return stream_kind(s.code).taper; };
  const bool tapered = std::any_of(streams.begin(), streams.end(), [&](const Stream& s) { return taper(s) > 0; });
  Bytes out{
      static_cast<uint8_t>((head.grey ? kGrey : 0) | (single ? kSingle : 0) | kOfVersion2 | (tapered ? kTapered : 0))};
  out.insert(out.end(), head.fingerprint.begin(), head.fingerprint.end());
  put_varint(out, static_cast<uint64_t>(head.width));
  put_varint(out, static_cast<uint64_t>(head.height));
  out.push_back(static_cast<uint8_t>(head.quality_code));
  if (!single) {
    const size_t first = out.size();
    out.resize(first + (3 * streams.size() + 7) / 8);
    for (size_t k = 0; k < streams.size(); ++k)
      for (size_t b = 0; b < 3; ++b)
        if (log2_of(lanes(streams[k])) >> b & 1) out[first + (3 * k + b) / 8] |= 1u << (3 * k + b) % 8;
  }
  if (tapered) {
    const size_t first = out.size(), groups = streams.size() - 1;
    out.resize(first + (groups + 1) / 2);
    for (size_t g = 0; g < groups; ++g)
      out[first + g / 2] = static_cast<uint8_t>(out[first + g / 2] | taper(streams[g + 1]) << 4 * (g % 2));
  }
  for (size_t k = 0; k + 1 < streams.size(); ++k) put_varint(out, streams[k].data.size);
  uint32_t crc = crc32c(out.data(), out.size(), 0);
  for (const Stream& s : streams) crc = crc32c(s.data.data, s.data.size, crc);
  put_u32(out, crc);
  return out;
}

}  // namespace

std::vector<uint8_t> write_file(const PacketHead& head, const std::vector<Stream>& streams,
                                const std::vector<Chunk>& chunks) {
  constexpr uint8_t kVersion = 2, kChunksFollow = 0x80;
  size_t total = 0;
  for (const Chunk& c : chunks) total += c.data.size;
  if (total > kMaxChunkBytes)
    throw Error(ErrorCode::kArgument, "the chunks (alpha, EXIF, ICC profile) have more than 64 MiB together");
  Bytes out{'C', 'C', 'M', static_cast<uint8_t>(kVersion | (chunks.empty() ? 0 : kChunksFollow))};
  for (const Chunk& c : chunks) {
    const size_t start = out.size();
    out.push_back(c.kind);
    put_varint(out, c.data.size);
    put(out, c.data);
    put_u32(out, crc32c(&out[start], out.size() - start, 0));
  }
  if (!chunks.empty()) out.push_back(0);
  const Bytes header = header_of(head, streams);
  out.insert(out.end(), header.begin(), header.end());
  for (const Stream& s : streams) put(out, s.data);
  return out;
}

}  // namespace ccm
