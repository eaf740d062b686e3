// Long calls and those who wait for them: whoever makes one may be told, now and then, how far it is, and end it.
#pragma once
#include <atomic>
#include <chrono>
#include <cstdint>
#include <functional>

namespace ccm {

// Thrown by poll(). No std::exception: nobody but who has asked for it should catch it.
struct Interrupted {};

// While it lives, poll() on this thread tells a function the share of the call that is done, 0 to 1, which never falls;
// if it returns true, that ends the call.
class InterruptScope {
 public:
  using Asked = std::function<bool(double)>;
  explicit InterruptScope(Asked asked);
  ~InterruptScope();
  InterruptScope(const InterruptScope&) = delete;

 private:
  friend class Portion;
  friend void poll(double share);
  void tell(double share);

  const Asked asked_;
  InterruptScope* const before_;
  std::chrono::steady_clock::time_point next_time_;
  double begin_ = 0, length_ = 1;  // of the portion that is under way
  double done_ = 0;
};

// While it lives, what this thread does is from `begin` to `end`, 0 to 1, of the portion around it, or of the call.
class Portion {
 public:
  Portion(double begin, double end);
  // The k-th of n equal parts.
  Portion(int64_t k, int64_t n)
      : Portion(static_cast<double>(k) / static_cast<double>(n), static_cast<double>(k + 1) / static_cast<double>(n)) {}
  ~Portion();
  Portion(const Portion&) = delete;

 private:
  double begin_ = 0, length_ = 0;  // of the portion around it
};

// Whether work that several threads share has failed, or work that it is a part of: what is left of it is then not
// wanted.
class Cancellation {
 public:
  // A part of what this thread is working on.
  Cancellation();
  Cancellation(const Cancellation&) = delete;
  void cancel() { cancelled_.store(true, std::memory_order_relaxed); }
  bool cancelled() const;

 private:
  const Cancellation* const outer_;
  std::atomic<bool> cancelled_{false};
};

// While it lives, this thread works on what `work` tells of, and poll() on it throws once that is cancelled.
class WorkScope {
 public:
  explicit WorkScope(const Cancellation& work);
  ~WorkScope();
  WorkScope(const WorkScope&) = delete;

 private:
  const Cancellation* const before_;
};

// For loops of long calls: asks no more often than 20 times a second, given the share of the portion that is done.
// Throws Interrupted.
void poll(double share = 0);

}  // namespace ccm
