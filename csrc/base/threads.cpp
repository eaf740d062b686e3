#include "base/threads.h"

#include <algorithm>
#include <atomic>
#include <condition_variable>
#include <exception>
#include <mutex>
#include <new>
#include <thread>

#include "base/interrupt.h"
#if defined(__unix__) || defined(__APPLE__)
#include <pthread.h>
#include <signal.h>
#endif

namespace ccm {
namespace {

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
};

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
    wanted_ -= threads - 1;
    if (call.error) std::rethrow_exception(call.error);
  }

  int workers() {
    std::lock_guard<std::mutex> lock(mutex_);
    return workers_;
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
    try {
      call.work(index);
    } catch (...) {
      std::lock_guard<std::mutex> lock(mutex_);
      if (!call.error) call.error = std::current_exception();
      call.cancellation.cancel();
      close(call);
    }
  }

  void serve() {
    std::unique_lock<std::mutex> lock(mutex_);
    for (;;) {
      ++sleeping_;
      asked_.wait(lock, [&] { return first_ != nullptr; });
      --sleeping_;
      Call& call = *first_;
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

int pool_workers() { return pool->workers(); }

}  // namespace ccm
