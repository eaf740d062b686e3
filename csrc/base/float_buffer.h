// Floats that a call needs for a while, from the pool of memory.h and back into it.
#pragma once
#include <cstddef>
#include <utility>

#include "base/memory.h"

namespace ccm {

class FloatBuffer {
 public:
  FloatBuffer() = default;
  // Of whatever values.
  explicit FloatBuffer(size_t count) : room_(count), data_(count ? take_floats(room_) : nullptr) {}
  FloatBuffer(FloatBuffer&& other) noexcept { swap(other); }
  FloatBuffer& operator=(FloatBuffer&& other) noexcept {
    swap(other);
    return *this;
  }
  ~FloatBuffer() {
    if (data_) give_floats(data_, room_);
  }

  float* data() { return data_; }
  const float* data() const { return data_; }

 private:
  void swap(FloatBuffer& other) noexcept {
    std::swap(room_, other.room_);
    std::swap(data_, other.data_);
  }

  size_t room_ = 0;
  float* data_ = nullptr;
};

}  // namespace ccm
