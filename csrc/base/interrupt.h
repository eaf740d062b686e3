// How a long call is broken off: whoever makes it may be asked, now and then, whether it is still wanted.
#pragma once

namespace ccm {

// Thrown by poll(). No std::exception: nobody but who has asked for it should catch it.
struct Interrupted {};

// While it lives, poll() asks this function on this thread: true ends the call.
class InterruptScope {
 public:
  explicit InterruptScope(bool (*asked)());
  ~InterruptScope();
  InterruptScope(const InterruptScope&) = delete;

 private:
  bool (*const before_)();
};

// For loops of long calls; asks no more often than 20 times a second. Throws Interrupted.
void poll();

}  // namespace ccm
