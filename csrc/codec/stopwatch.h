#pragma once
#include <chrono>

namespace ccm {

// Adds the seconds of its life to a number, if there is one.
class Stopwatch {
 public:
  explicit Stopwatch(double* to) : to_(to), start_(std::chrono::steady_clock::now()) {}
  Stopwatch(const Stopwatch&) = delete;
  ~Stopwatch() {
    if (to_) *to_ += std::chrono::duration<double>(std::chrono::steady_clock::now() - start_).count();
  }

 private:
  double* const to_;
  const std::chrono::steady_clock::time_point start_;
};

}  // namespace ccm
