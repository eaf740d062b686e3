// Bytes that somebody holds: a file mapped into memory, or a copy.
#pragma once
#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>

namespace ccm {

// A view; `owner` keeps it valid (null: the caller does).
struct Bytes {
  const uint8_t* data = nullptr;
  size_t size = 0;
  std::shared_ptr<const void> owner;
};

// A file of at most `limit` bytes, mapped where the system can. Throws Error (kFile, kLimit).
Bytes map_file(const std::string& path, size_t limit);

Bytes copy_of(const uint8_t* data, size_t size);

}  // namespace ccm
