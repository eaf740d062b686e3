#include "base/threads.h"

#include <algorithm>
#include <atomic>
#include <chrono>
#include <condition_variable>
#include <exception>
#include <mutex>
#include <new>
#include <thread>

#include "base/call_gauge.h"
#include "base/cores.h"
#include "base/interrupt.h"
#if defined(__unix__) || defined(__APPLE__)
#include <pthread.h>
#include <signal.h>
#endif

namespace ccm {
namespace {

using Clock = std::chrono::steady_clock;
using std::chrono::microseconds;

// Older calls get workers wherever these run. A core that another process keeps busy is a worker's for some
// milliseconds at a time, and as long others wait then for what it holds. Shorter calls are rather done by then: layers
// of g_s take 3 ms at 768x512.
#if !defined(CCM_SHARE_ALL)
constexpr microseconds kLongCall{20000};
#else  // tests, whose workers are to come
constexpr microseconds kLongCall{2000};
#endif
// A worker leaves its core no more often than so.
constexpr microseconds kBetweenMoves{1000};

// Nanoseconds of a worker that are more than looking whether it should go on resting.
constexpr int64_t kHelp = 50000;

// A call of run_threads() under way; on its caller's stack.
struct Call {
  Call(const std::function<void(int)>& f, int threads) : work(f), open(threads - 1) {}
  const std::function<void(int)>& work;
  int open;         // workers that may still join
  int joined = 1;   // threads that have, the caller among them
  int running = 0;  // workers that have not returned yet
  std::exception_ptr error;
  Cancellation cancellation;  // where there is one: all threads stop at their next poll()
  std::condition_variable returned;
  Call* next = nullptr;  // a later call that workers may join
  const Clock::time_point begin = Clock::now();
  std::atomic<int> core{current_core()};  // the caller's, when last seen
  // Of the gauge's measurement under way, which is the caller's:
  Clock::time_point measured_from = begin;
  std::atomic<int64_t> processor{0};  // nanoseconds that threads have had their cores
  std::atomic<bool> helped{false};    // workers among them
};

thread_local Call* working_for = nullptr;  // the call that this thread works on
thread_local int64_t counted = 0;          // of thread_nanoseconds(), in that call

// Counts what this thread has had since it last did.
void count(Call& call, bool worker) {
  const int64_t now = thread_nanoseconds();
  call.processor.fetch_add(now - counted, std::memory_order_relaxed);
  if (worker && now - counted >= kHelp) call.helped.store(true, std::memory_order_relaxed);
  counted = now;
}

// Signals are for the program's own threads.
class SignalsBlocked {
 public:
#if defined(__unix__) || defined(__APPLE__)
  SignalsBlocked() {
    sigset_t all;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before_);
  }
  ~SignalsBlocked() { pthread_sigmask(SIG_SETMASK, &before_, nullptr); }

 private:
  sigset_t before_;
#endif
};

// How long this worker should stay away from a call; 0: not at all. Where all cores are busy the system puts workers
// beside their callers. Two threads on one core get no more done than one and wait for each other on the way, so the
// worker takes its share of another core instead, where that pays.
microseconds time_to_rest(const Call& call, const CallGauge& gauge, bool measured) {
  static thread_local Clock::time_point moved;
  const auto now = Clock::now();
  if (!gauge.pays()) {
    const auto left = kLongCall - std::chrono::duration_cast<microseconds>(now - call.begin);
    if (measured || left.count() > 0) return measured ? kLongCall : left;
  }
  const int core = current_core();
  if (core >= 0 && core == call.core.load(std::memory_order_relaxed) && now - moved > kBetweenMoves) {
    leave_core();
    moved = now;
  }
  return microseconds{0};
}

class Pool {
 public:
  void run(int threads, const std::function<void(int)>& work) {
    Call call(work, threads);
    {
      std::lock_guard<std::mutex> lock(mutex_);
      wanted_ += call.open;
      start_workers();
      Call** last = &first_;
      while (*last) last = &(*last)->next;
      *last = &call;
      for (int n = std::min(call.open, sleeping_); n > 0; --n) asked_.notify_one();
    }
    attempt(call, 0);
    std::unique_lock<std::mutex> lock(mutex_);
    close(call);
    call.returned.wait(lock, [&] { return call.running == 0; });
    // Longer calls that have not measured by themselves get workers in any case.
    if (Clock::now() - call.measured_from < kLongCall) measure(call);
    wanted_ -= threads - 1;
    if (call.error) std::rethrow_exception(call.error);
  }

  int workers() {
    std::lock_guard<std::mutex> lock(mutex_);
    return workers_;
  }

  const CallGauge& gauge() const { return gauge_; }

  // The caller of a long call, between its pieces.
  void measure_piece(Call& call) {
    count(call, false);
    if (Clock::now() - call.measured_from < CallGauge::kWindow) return;
    const std::lock_guard<std::mutex> lock(mutex_);
    measure(call);
  }

  std::mutex& mutex() { return mutex_; }

 private:
  // As many as all calls under way want together. The caller holds the lock.
  void start_workers() {
    constexpr int kMost = 1023;
    [[maybe_unused]] const SignalsBlocked blocked;
    try {
      for (; workers_ < std::min(wanted_, kMost); ++workers_) std::thread([this] { serve(); }).detach();
    } catch (const std::exception&) {
      // The system gives no more threads, or no memory for them: those that there are do the work.
    }
  }

  // Since the last time. The caller holds the lock.
  void measure(Call& call) {
    const auto now = Clock::now();
    gauge_.note(call.helped.exchange(false, std::memory_order_relaxed), now - call.measured_from,
                std::chrono::nanoseconds(call.processor.exchange(0, std::memory_order_relaxed)));
    call.measured_from = now;
  }

  // Nobody joins any more. The caller holds the lock.
  void close(Call& call) {
    if (!call.open) return;
    call.open = 0;
    Call** at = &first_;
    while (*at != &call) at = &(*at)->next;
    *at = call.next;
  }

  void attempt(Call& call, int index) {
    const WorkScope scope(call.cancellation);
    Call* const outer = working_for;
    const int64_t outer_counted = counted;
    working_for = &call;
    counted = thread_nanoseconds();
    try {
      call.work(index);
    } catch (...) {
      std::lock_guard<std::mutex> lock(mutex_);
      if (!call.error) call.error = std::current_exception();
      call.cancellation.cancel();
      close(call);
    }
    count(call, index > 0);
    working_for = outer;
    counted = outer_counted;
  }

  void serve() {
    std::unique_lock<std::mutex> lock(mutex_);
    for (;;) {
      ++sleeping_;
      asked_.wait(lock, [&] { return first_ != nullptr; });
      --sleeping_;
      Call& call = *first_;
      if (const microseconds pause = time_to_rest(call, gauge_, false); pause.count() > 0) {
        lock.unlock();
        std::this_thread::sleep_for(pause);
        lock.lock();
        continue;
      }
      const int index = call.joined++;
      ++call.running;
      if (call.open == 1)
        close(call);
      else
        --call.open;
      lock.unlock();
      attempt(call, index);
      lock.lock();
      if (--call.running == 0) call.returned.notify_one();
    }
  }

  std::mutex mutex_;
  std::condition_variable asked_;
  Call* first_ = nullptr;  // calls that workers may join, oldest first
  int workers_ = 0, sleeping_ = 0;
  CallGauge gauge_;
  int wanted_ = 0;  // workers that all calls under way want together
};

// Never taken down: its workers sleep in it until the process ends.
Pool* pool = new Pool;

#if defined(__unix__) || defined(__APPLE__)
// A child has none of its parent's workers. It gets a pool of its own; the old one is not looked at again. Registered
// when the library is loaded: no thread can be half through with it at a fork.
[[maybe_unused]] const int registered =
    pthread_atfork([] { pool->mutex().lock(); }, [] { pool->mutex().unlock(); }, [] { pool = new Pool; });
#endif

}  // namespace

void run_threads(int threads, const std::function<void(int)>& work) {
  if (threads <= 1) return work(0);
  pool->run(threads, work);
}

void parallel_for(int threads, int64_t n, const std::function<void(int64_t)>& body) {
  std::atomic<int64_t> next{0};
  run_threads(static_cast<int>(n < threads ? n : threads), [&](int) {
    for (int64_t i; (i = next.fetch_add(1)) < n; poll()) {
      const Portion portion(i, n);
      body(i);
    }
  });
}

void side_by_side(int threads, int64_t n, const std::function<void(int64_t, int)>& body) {
  const int64_t over = n % threads ? n % threads : threads;
  parallel_for(threads, n, [&](int64_t i) { body(i, i < n - over ? 1 : static_cast<int>(threads / over)); });
}

int likely_threads(int threads) { return pool->gauge().pays() ? threads : 1; }

std::chrono::microseconds rest_from_call(bool caller) {
  Call& call = *working_for;
  if (caller) {
    call.core.store(current_core(), std::memory_order_relaxed);
    pool->measure_piece(call);
    return microseconds{0};
  }
  count(call, true);
  return time_to_rest(call, pool->gauge(), true);
}

int pool_workers() { return pool->workers(); }

}  // namespace ccm
