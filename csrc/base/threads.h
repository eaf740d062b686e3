// Threads for coarse tasks: one pool a process (a library, where several are linked with these files), whose workers
// are started when a call first wants them and then sleep between calls. Nobody spins or waits for a worker that has
// not begun: beside a process that holds a core, that is what makes OpenMP codecs stall for seconds.
#pragma once
#include <chrono>
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
// exception. Once there is one, nobody begins any more, and poll() (base/interrupt.h) ends what the others are doing,
// also where they have called run_threads themselves. Indexes are below `threads` and differ. A worker that has not
// come by the time the caller has finished is not waited for, so `work` must share out what there is to do: it must be
// done when any one call has returned and those that have begun do, too. May be called by several threads at once, and
// from within `work`. A forked child has a pool of its own.
void run_threads(int threads, const std::function<void(int)>& work);

// body(i) for i in [0, n), dealt out one by one.
void parallel_for(int threads, int64_t n, const std::function<void(int64_t)>& body);

// body(i, threads) for i in [0, n), of equal work: as many at a time as there are threads; those that are left over at
// the end share all threads.
void side_by_side(int threads, int64_t n, const std::function<void(int64_t, int)>& body);

// How many of `threads` will come at once: 1 where calls of less than 20 ms have turned out to be done no sooner with
// workers, because other processes keep the cores busy. Such calls do without them for a while. Longer ones get theirs
// once they have gone on for so long.
int likely_threads(int threads);

// For `work` that goes on for long, between its pieces: how long this worker should stay away, 0: not at all. From the
// caller, index 0, it learns the caller's core and returns 0.
std::chrono::microseconds rest_from_call(bool caller);

// Workers that this process has started so far.
int pool_workers();

}  // namespace ccm
