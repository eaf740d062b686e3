// Threads for coarse tasks. Workers sleep while there is nothing to do: waiting for each other at every small step is
// what makes OpenMP codecs stall for seconds when another process holds a core. (Where steps are shared, share.h,
// nobody waits for a thread that has taken nothing.)
#pragma once
#include <cstdint>
#include <functional>

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
void run_threads(int threads, const std::function<void(int)>& work);

// body(i) for i in [0, n), dealt out one by one.
void parallel_for(int threads, int64_t n, const std::function<void(int64_t)>& body);

}  // namespace ccm
