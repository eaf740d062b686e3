// Threads for coarse tasks. Workers sleep while there is nothing to do: waiting for each other at every small step is
// what makes OpenMP codecs stall for seconds when another process holds a core. (Where steps are shared, share.h,
// nobody waits for a thread that has taken nothing.)
#pragma once
#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <exception>
#include <functional>
#include <mutex>
#include <system_error>
#include <thread>
#include <vector>

namespace ccm {

// For loops that wait: lets the other thread of a core go ahead.
inline void relax() {
#if defined(__x86_64__) || defined(_M_X64)
  __builtin_ia32_pause();
#elif defined(__aarch64__)
  __asm__ __volatile__("yield");
#endif
}

// Runs work(thread index) on at most `threads` threads, the caller's (index 0) among them, and rethrows the first
// exception.
inline void run_threads(int threads, const std::function<void(int)>& work) {
  if (threads <= 1) return work(0);
  std::exception_ptr error;
  std::mutex mutex;
  auto guarded = [&](int t) {
    try {
      work(t);
    } catch (...) {
      std::lock_guard<std::mutex> lock(mutex);
      if (!error) error = std::current_exception();
    }
  };
  std::vector<std::thread> pool;
  try {
    for (int t = 1; t < threads; ++t) pool.emplace_back(guarded, t);
  } catch (const std::system_error&) {
    // The system gives no more threads: those that there are do the work.
  }
  guarded(0);
  for (std::thread& t : pool) t.join();
  if (error) std::rethrow_exception(error);
}

// body(i) for i in [0, n), dealt out one by one.
inline void parallel_for(int threads, int64_t n, const std::function<void(int64_t)>& body) {
  std::atomic<int64_t> next{0};
  run_threads(static_cast<int>(n < threads ? n : threads), [&](int) {
    for (int64_t i; (i = next.fetch_add(1)) < n;) body(i);
  });
}

}  // namespace ccm
