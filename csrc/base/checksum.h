// A quick look at whether memory has changed.
#pragma once
#include <cstddef>
#include <cstdint>

namespace ccm {

// 64 bits of these bytes, of which any change of one aligned word of 8 bytes is certain to change some, and any other
// one is as good as certain to. Differs between byte orders, and between releases: for memory, not for files. Faster
// than memory (one core: 8 bytes a cycle). No protection against who wants two contents to look alike.
uint64_t checksum(const void* data, size_t bytes);

}  // namespace ccm
