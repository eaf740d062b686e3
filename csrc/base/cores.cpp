#include "base/cores.h"

#if defined(__linux__)
#include <sched.h>
#include <time.h>
#endif

namespace ccm {

#if defined(__linux__)

int current_core() { return sched_getcpu(); }

void leave_core() {
  // A machine of more cores than a cpu_set_t has (1024) makes this fail, and the thread stays.
  cpu_set_t allowed, others;
  if (sched_getaffinity(0, sizeof(allowed), &allowed)) return;
  const int core = sched_getcpu();
  if (core < 0 || core >= CPU_SETSIZE) return;
  others = allowed;
  CPU_CLR(core, &others);
  // Which cores it may use is as before once it has moved.
  if (CPU_COUNT(&others) && !sched_setaffinity(0, sizeof(others), &others))
    sched_setaffinity(0, sizeof(allowed), &allowed);
}

int64_t thread_nanoseconds() {
  timespec t;
  if (clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t)) return 0;
  return int64_t{t.tv_sec} * 1000000000 + t.tv_nsec;
}

#else

int current_core() { return -1; }
void leave_core() {}
int64_t thread_nanoseconds() { return 0; }

#endif

}  // namespace ccm
