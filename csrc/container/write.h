// Writing files of version 2 (FORMAT.md, section 6).
#pragma once
#include <cstdint>
#include <vector>

#include "container/container.h"
#include "container/packet.h"

namespace ccm {

// The bytes of a file. head: width, height, quality_code, fingerprint and grey; streams: z's, then each group's.
// Throws Error (kArgument): chunks of more than 64 MiB together.
std::vector<uint8_t> write_file(const PacketHead& head, const std::vector<Stream>& streams,
                                const std::vector<Chunk>& chunks);

}  // namespace ccm
