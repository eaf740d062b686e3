// A growing block of bytes in sections, of which each starts at a multiple of kAlignment; what packed models are.
#pragma once
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <utility>
#include <vector>

#include "base/memory.h"

namespace ccm {

template <size_t kAlignment>
class Sections {
 public:
  explicit Sections(size_t head) : data_(head) {}
  // Takes room for so many bytes in all, which costs nothing until they are used.
  void expect(size_t n) {
    data_.reserve(n);
    want_huge_pages(data_.data(), n);
  }
  // Offset of a new section of n zero bytes.
  int64_t reserve(size_t n) {
    const size_t at = (data_.size() + kAlignment - 1) / kAlignment * kAlignment;
    data_.resize(at + n);
    return static_cast<int64_t>(at);
  }
  // Offset of a new section with these values.
  template <class T>
  int64_t put(const std::vector<T>& v) {
    const int64_t at = reserve(v.size() * sizeof(T));
    if (!v.empty()) std::memcpy(data_.data() + at, v.data(), v.size() * sizeof(T));
    return at;
  }
  uint8_t* data() { return data_.data(); }
  int64_t size() const { return static_cast<int64_t>(data_.size()); }
  std::vector<uint8_t> take() { return std::move(data_); }

 private:
  std::vector<uint8_t> data_;
};

}  // namespace ccm
