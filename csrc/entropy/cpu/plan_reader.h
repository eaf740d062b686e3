// The numbers of a plan, one after another, with their limits (FORMAT.md, section 7).
#pragma once
#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include "base/little_endian.h"
#include "model/rows.h"

namespace ccm {

[[noreturn]] inline void bad_plan(const std::string& what) { throw PlanError("bad entropy model (plan): " + what); }

// Throws PlanError where the bytes end or a number is outside its limits.
class PlanReader {
 public:
  PlanReader(const uint8_t* data, size_t size) : p_(data), left_(size) {}

  const uint8_t* bytes(size_t n) {
    const size_t padded = (n + 3) / 4 * 4;
    if (padded > left_ || padded < n) bad_plan("it ends too early");
    const uint8_t* at = p_;
    for (size_t i = n; i < padded; ++i)
      if (at[i]) bad_plan("padding that is not zero");
    p_ += padded;
    left_ -= padded;
    return at;
  }
  int32_t number() { return load_i32(bytes(4)); }
  int32_t number(int32_t lo, int32_t hi, const char* what) {
    const int32_t v = number();
    if (v < lo || v > hi)
      bad_plan(std::string(what) + " is " + std::to_string(v) + ", outside " + std::to_string(lo) + ".." +
               std::to_string(hi));
    return v;
  }
  std::vector<int32_t> numbers(size_t n) {
    const uint8_t* at = bytes(n * 4);
    std::vector<int32_t> v(n);
    load_all(at, n, v.data(), load_i32);
    return v;
  }
  size_t left() const { return left_; }

 private:
  const uint8_t* p_;
  size_t left_;
};

}  // namespace ccm
