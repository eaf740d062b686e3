// A growing array for files that are compiled for one instruction set. What std::vector's functions are compiled to
// there may become the copy of the whole library, on every processor (test_packaging.py); these stay in their file.
#pragma once
#include <cstdint>
#include <cstdlib>
#include <new>
#include <type_traits>

namespace ccm {
namespace {

template <class T>
class Array {
  static_assert(std::is_trivially_copyable_v<T>);

 public:
  Array() = default;
  Array(int64_t count, T value) {
    reserve(count);
    for (; size_ < count; ++size_) new (data_ + size_) T(value);
  }
  Array(const Array&) = delete;
  Array& operator=(const Array&) = delete;
  ~Array() { std::free(data_); }

  void push_back(const T& value) {
    if (size_ == room_) reserve(2 * room_ + 8);
    new (data_ + size_++) T(value);
  }
  void clear() { size_ = 0; }
  int64_t size() const { return size_; }
  T* data() { return data_; }
  const T* data() const { return data_; }
  T& operator[](int64_t k) { return data_[k]; }
  const T& operator[](int64_t k) const { return data_[k]; }

 private:
  void reserve(int64_t room) {
    void* grown = std::realloc(data_, static_cast<size_t>(room) * sizeof(T));
    if (!grown) throw std::bad_alloc();
    data_ = static_cast<T*>(grown);
    room_ = room;
  }

  T* data_ = nullptr;
  int64_t size_ = 0, room_ = 0;
};

}  // namespace
}  // namespace ccm
