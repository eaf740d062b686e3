#include "base/bytes.h"

#include <cerrno>
#include <cstdio>
#include <cstring>
#include <vector>

#include "base/error.h"
#if defined(__unix__) || defined(__APPLE__)
#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>
#endif

namespace ccm {
namespace {

[[noreturn]] void fail(const std::string& path, const char* why) { throw Error(ErrorCode::kFile, path + ": " + why); }

[[noreturn]] void too_large(const std::string& path, size_t limit) {
  throw Error(ErrorCode::kLimit, path + ": more than " + std::to_string(limit) + " bytes");
}

}  // namespace

Bytes copy_of(const uint8_t* data, size_t size) {
  auto copy = std::make_shared<std::vector<uint8_t>>(data, data + size);
  return {copy->data(), size, copy};
}

#if defined(__unix__) || defined(__APPLE__)

Bytes map_file(const std::string& path, size_t limit) {
  struct Descriptor {
    int number;
    ~Descriptor() {
      if (number >= 0) close(number);
    }
  } const file{open(path.c_str(), O_RDONLY | O_CLOEXEC)};
  if (file.number < 0) fail(path, std::strerror(errno));
  struct stat about;
  if (fstat(file.number, &about)) fail(path, std::strerror(errno));
  if (!S_ISREG(about.st_mode)) fail(path, "not a regular file");
  const size_t size = static_cast<size_t>(about.st_size);
  if (size > limit) too_large(path, limit);
  if (!size) return {};
  void* const at = mmap(nullptr, size, PROT_READ, MAP_PRIVATE, file.number, 0);
  if (at == MAP_FAILED) fail(path, std::strerror(errno));
  std::shared_ptr<const void> owner(at, [size](const void* p) { munmap(const_cast<void*>(p), size); });
  return {static_cast<const uint8_t*>(at), size, std::move(owner)};
}

#else

Bytes map_file(const std::string& path, size_t limit) {
  const std::unique_ptr<std::FILE, int (*)(std::FILE*)> file(std::fopen(path.c_str(), "rb"), std::fclose);
  if (!file) fail(path, std::strerror(errno));
  auto all = std::make_shared<std::vector<uint8_t>>();
  uint8_t buffer[1 << 16];
  for (size_t n; (n = std::fread(buffer, 1, sizeof buffer, file.get())) > 0;) {
    if (all->size() + n > limit) too_large(path, limit);
    all->insert(all->end(), buffer, buffer + n);
  }
  if (std::ferror(file.get())) fail(path, "cannot be read");
  return {all->data(), all->size(), all};
}

#endif

}  // namespace ccm
