// Whether calls get done sooner with more threads than one.
#pragma once
#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstdint>

namespace ccm {

// Measures how much processor time calls get in a second with workers and without. Where workers do not pay, calls are
// to do without them for a while, which grows as long as that stays so. It is counted in time of the calls that are
// measured, so that of rare calls not every one is a trial, but what has been found is forgotten after some seconds.
class CallGauge {
 public:
  static constexpr std::chrono::milliseconds kWindow{12};  // of a measurement without workers

  // For any thread.
  bool pays() const {
    return alone_left_.load(std::memory_order_relaxed) <= 0 || now() >= forgotten_at_.load(std::memory_order_relaxed);
  }

  // A call, or a part of it, has taken `time`, and all its threads together had their cores for `processor`; 0: the
  // system does not say. One thread at a time.
  void note(bool helped, std::chrono::nanoseconds time, std::chrono::nanoseconds processor) {
    if (processor.count() == 0) return;
    alone_left_.store(alone_left_.load(std::memory_order_relaxed) - time.count(), std::memory_order_relaxed);
    Sum& sum = helped ? with_ : alone_;
    sum.time += time;
    sum.processor += processor;
    if (sum.time < (helped ? kTrial : kWindow)) return;
    const double rate = static_cast<double>(sum.processor.count()) / static_cast<double>(sum.time.count());
    sum = {};
    if (!helped) {
      alone_rate_ = rate;
    } else if (rate < kGain * alone_rate_) {
      alone_left_.store(pause_, std::memory_order_relaxed);
      forgotten_at_.store(now() + kRemembered, std::memory_order_relaxed);
      pause_ = std::min(2 * pause_, kLongest);
    } else {
      pause_ = std::max(pause_ / 2, kShortest);
    }
  }

 private:
  // Of calls with workers: the system takes some time to give a core that only work of low priority holds.
  static constexpr std::chrono::milliseconds kTrial{50};
  // Two threads need some more processor time for the same work, and the measurement is not exact.
  static constexpr double kGain = 1.15;
  // Nanoseconds.
  static constexpr int64_t kShortest = 100000000, kLongest = 3200000000, kRemembered = 5000000000;

  static int64_t now() {
    return std::chrono::duration_cast<std::chrono::nanoseconds>(std::chrono::steady_clock::now().time_since_epoch())
        .count();
  }

  struct Sum {
    std::chrono::nanoseconds time{0}, processor{0};
  };
  Sum with_, alone_;
  double alone_rate_ = 1;  // below 1 where other processes have this thread's core for a part of the time
  int64_t pause_ = kShortest;
  std::atomic<int64_t> alone_left_{0}, forgotten_at_{0};
};

}  // namespace ccm
