#include "base/interrupt.h"

#include <algorithm>
#include <utility>

namespace ccm {
namespace {

using Clock = std::chrono::steady_clock;
constexpr std::chrono::milliseconds kApart{50};

thread_local InterruptScope* scope = nullptr;  // of the call that this thread is in, if somebody is asked
thread_local const Cancellation* working_on = nullptr;

}  // namespace

InterruptScope::InterruptScope(Asked asked)
    : asked_(std::move(asked)), before_(scope), next_time_(Clock::now() + kApart) {
  scope = this;
}

InterruptScope::~InterruptScope() { scope = before_; }

void InterruptScope::tell(double share) {
  done_ = std::max(done_, begin_ + share * length_);
  const Clock::time_point now = Clock::now();
  if (now < next_time_) return;
  next_time_ = now + kApart;
  if (asked_(std::min(done_, 1.0))) throw Interrupted{};
}

Portion::Portion(double begin, double end) {
  if (!scope) return;
  begin_ = scope->begin_;
  length_ = scope->length_;
  scope->begin_ += begin * length_;
  scope->length_ *= end - begin;
}

Portion::~Portion() {
  if (!scope) return;
  scope->done_ = std::max(scope->done_, scope->begin_ + scope->length_);
  scope->begin_ = begin_;
  scope->length_ = length_;
}

Cancellation::Cancellation() : outer_(working_on) {}

bool Cancellation::cancelled() const {
  for (const Cancellation* at = this; at; at = at->outer_)
    if (at->cancelled_.load(std::memory_order_relaxed)) return true;
  return false;
}

WorkScope::WorkScope(const Cancellation& work) : before_(working_on) { working_on = &work; }

WorkScope::~WorkScope() { working_on = before_; }

void poll(double share) {
  if (working_on && working_on->cancelled()) throw Interrupted{};
  if (scope) scope->tell(share);
}

}  // namespace ccm
