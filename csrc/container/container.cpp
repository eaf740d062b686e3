#include "container/container.h"

#include <algorithm>
#include <cstring>
#include <string>

#include "base/crc32c.h"
#include "container/packet.h"

namespace ccm {
namespace {

constexpr uint8_t kMagic[] = {'C', 'C', 'M'};
constexpr int kNewestVersion = 2;
constexpr uint8_t kChunksFollow = 0x80, kVersionBits = 0x0f;

}  // namespace

Container parse_container(Span file) {
  ByteReader reader(file);
  const size_t known = std::min(file.size, sizeof kMagic);
  if (known && std::memcmp(file.data, kMagic, known))
    throw Error(ErrorCode::kNotCcm, "not a .ccm file (it does not begin with CCM)");
  if (file.size <= sizeof kMagic)
    throw Error(ErrorCode::kTruncated, file.size ? "the data ends before the version" : "the data is empty");
  reader.take(sizeof kMagic, "the magic");
  const uint8_t version = reader.byte("the version");
  const int number = version & ~kChunksFollow;
  if (number < 1 || number > kNewestVersion)
    throw Error(ErrorCode::kUnsupported, "version " + std::to_string(version & kVersionBits) +
                                             " of the format; this release reads versions 1 and 2");
  Container out;
  out.version = version & kVersionBits;
  uint64_t total = 0;
  while (version & kChunksFollow) {
    const size_t start = reader.position();
    const uint8_t kind = reader.byte("a chunk");
    if (!kind) break;
    // Messages are ASCII, whatever a file calls its chunks.
    const bool plain = kind >= 0x20 && kind < 0x7f;
    const std::string name = "chunk '" + (plain ? std::string(1, static_cast<char>(kind)) : std::to_string(kind)) + "'";
    const uint64_t length = reader.varint("a chunk's length");
    total += length;
    if (total > kMaxChunkBytes)
      throw Error(ErrorCode::kLimit, "more than " + std::to_string(kMaxChunkBytes >> 20) + " MiB of chunks");
    const Span data = reader.take(length, name);
    const uint32_t crc = crc32c(file.data + start, reader.position() - start, 0);
    if (crc != reader.u32(name)) throw Error(ErrorCode::kDamaged, "the checksum of " + name + " does not match");
    for (const Chunk& c : out.chunks)
      if (c.kind == kind) throw Error(ErrorCode::kDamaged, "two chunks of type " + name.substr(6));
    out.chunks.push_back({kind, data});
  }
  out.packet = reader.take(reader.left(), "the packet");
  if (out.packet.size && packet_version(out.packet.data[0]) != out.version)
    throw Error(ErrorCode::kDamaged, "a packet of another version than its file's");
  return out;
}

}  // namespace ccm
