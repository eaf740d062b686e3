#include "base/interrupt.h"

#include <chrono>

namespace ccm {
namespace {

using Clock = std::chrono::steady_clock;
constexpr std::chrono::milliseconds kApart{50};

thread_local bool (*ask)() = nullptr;
thread_local Clock::time_point next_time;

}  // namespace

InterruptScope::InterruptScope(bool (*asked)()) : before_(ask) {
  ask = asked;
  next_time = Clock::now() + kApart;
}

InterruptScope::~InterruptScope() { ask = before_; }

void poll() {
  if (!ask) return;
  const Clock::time_point now = Clock::now();
  if (now < next_time) return;
  next_time = now + kApart;
  if (ask()) throw Interrupted{};
}

}  // namespace ccm
