// What the emulator's own files share: fibers, blocks, the launch that runs, and what they call of each other.
#pragma once
#include <cstddef>
#include <cstdint>
#include <map>
#include <string>
#include <vector>
#if !defined(__x86_64__)
#include <ucontext.h>
#endif

#include "runtime.h"

extern "C" {  // there under a sanitizer only
void* __tsan_create_fiber(unsigned) __attribute__((weak));
void __tsan_destroy_fiber(void*) __attribute__((weak));
void __tsan_switch_to_fiber(void*, unsigned) __attribute__((weak));
void* __tsan_get_current_fiber(void) __attribute__((weak));
void __tsan_set_fiber_name(void*, const char*) __attribute__((weak));
void __tsan_acquire(void*) __attribute__((weak));
void __tsan_release(void*) __attribute__((weak));
void __sanitizer_start_switch_fiber(void**, const void*, size_t) __attribute__((weak));
void __sanitizer_finish_switch_fiber(void*, const void**, size_t*) __attribute__((weak));
void __asan_poison_memory_region(void const volatile*, size_t) __attribute__((weak));
void __asan_unpoison_memory_region(void const volatile*, size_t) __attribute__((weak));
}

namespace emu {

constexpr size_t kMaxThreads = 16384;  // each takes two memory maps, of which Linux gives a process 65,530
constexpr int kMaxPending = 17;        // different masks that wait at once in a warp: 16 pairs of lanes, and one more

enum State : unsigned char { kReady, kBlocked, kDone };
struct Block;

struct Fiber {
  Context context;
  Fiber* link = nullptr;  // the next in a barrier's list
#if defined(__x86_64__)
  void* sp = nullptr;
#else
  ucontext_t machine;
#endif
  char* stack = nullptr;
  void *tsan = nullptr, *fake_stack = nullptr;
  Block* block = nullptr;
  State state = kReady;
  const char* doing = "not started";
  Source at{"", 0};
  int count = 0;  // what its last barrier counted
};

struct Pending {  // a collective that not all lanes have reached
  Collective c;
  unsigned arrived;
  int op;
  Finish finish;
  Source source;
};
struct WarpSync {  // __syncwarp of one mask, for ThreadSanitizer: alternating, so that two in a row stay apart
  char sync[2];
  unsigned phase = 0;
};
struct Warp {
  Fiber* lane[32] = {};
  unsigned alive = 0;
  Pending pending[kMaxPending];
  int count = 0;
  std::map<unsigned, WarpSync> sync;
};
struct Barrier {
  int arrived = 0, need = 0, count = 0;
  Source source{"", 0};
  Fiber* waiting = nullptr;
  char sync[2];
  unsigned phase = 0;
};
struct StaticShared {
  const void* tag;
  char* address;
};
struct Block {
  uint3 id;
  std::vector<Fiber*> fibers;
  std::vector<Warp> warps;
  Barrier barrier[16];
  int alive = 0;
  char *dynamic = nullptr, *fixed = nullptr;
  size_t fixed_used = 0;
  std::vector<StaticShared> statics;
};

struct Launch {
  dim3 grid, dim;
  size_t shared;
  bool cooperative;
  void (*body)(void*);
  void* argument;
  // Ready fibers: a ring that never grows, since no fiber is in it twice.
  std::vector<Fiber*> ring;
  size_t head = 0, ready = 0;
  void push(Fiber* f) {
    size_t i = head + ready++;
    ring[i < ring.size() ? i : i - ring.size()] = f;
  }
  std::vector<Block*> live;
  std::vector<unsigned> order;
  unsigned blocks = 0, next_block = 0, resident = 0;
  uint64_t random_state = 0;
  bool random = false;
  unsigned long long idle = 0, patience = 0, switches = 0, collectives = 0;
  Barrier grid_barrier;
  size_t unfinished = 0;  // threads, those of blocks not yet started included
  char started, ended, fenced;
  Fiber main;
  Fiber* running = nullptr;
  bool failed = false;
};
extern Launch* L;          // the one that runs: there is one at a time
extern std::string error;  // what was wrong with the last one

inline uint64_t random_number() {
  uint64_t& s = L->random_state;
  s ^= s << 13, s ^= s >> 7, s ^= s << 17;
  return s;
}
inline void acquire(void* sync) {
  if (__tsan_acquire) __tsan_acquire(sync);
}
inline void release(void* sync) {
  if (__tsan_release) __tsan_release(sync);
}

// fibers.cpp
Fiber* new_fiber(Block* b, unsigned number);
void drop(Fiber* f);
void wake(Fiber* f);
void switch_to(Fiber* to);
void run_next();  // gives the processor to some ready fiber
void block_here(const char* why, Source source);
void adopt_main();  // the thread that launches becomes a fiber too

// collectives.cpp
void thread_ended(Fiber* f);

// host.cpp
long long setting(const char* name, long long otherwise);  // of the environment
long long shared_limit();                                  // bytes of a block

}  // namespace emu
