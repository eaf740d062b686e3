// Fibers, their scheduler, barriers and warp collectives. Compile WITHOUT -fsanitize=thread: it tells ThreadSanitizer
// about its fibers itself, and its own bookkeeping crosses threads freely.
#include "cuda_emu.h"

#include <sys/mman.h>

#include <cstdarg>
#include <cstdio>
#include <cstdlib>
#include <map>
#include <mutex>
#include <string>
#include <vector>
#if defined(__x86_64__)
#include <emmintrin.h>
#else
#include <ucontext.h>
#endif

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
Context* current = nullptr;

namespace {

constexpr size_t kStack = 128 * 1024, kGuard = 4096;
constexpr size_t kMaxThreads = 16384;     // each takes two memory maps, of which Linux gives a process 65,530
constexpr size_t kMaxTsanThreads = 6000;  // in a launch; ThreadSanitizer ends at 8,128
constexpr size_t kStaticLimit = 48 * 1024, kRedZone = 64;
constexpr int kMaxPending = 17;  // different masks that wait at once in a warp: 16 pairs of lanes, and one more

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
}* L = nullptr;

std::mutex one_launch;
std::string error;
emu_graph* capture = nullptr;  // what has been captured so far
bool capture_is_valid = false;
struct Machine {
  char* stack;
  void* tsan;
};
std::vector<Machine> spare_machines;

uint64_t random_number() {
  uint64_t& s = L->random_state;
  s ^= s << 13, s ^= s >> 7, s ^= s << 17;
  return s;
}
void acquire(void* sync) {
  if (__tsan_acquire) __tsan_acquire(sync);
}
void release(void* sync) {
  if (__tsan_release) __tsan_release(sync);
}

#if defined(__x86_64__)
extern "C" void ccm_emu_switch(void** save, void* load);
asm(R"(
.text
.globl ccm_emu_switch
.hidden ccm_emu_switch
.type ccm_emu_switch, @function
ccm_emu_switch:
  pushq %rbp
  pushq %rbx
  pushq %r12
  pushq %r13
  pushq %r14
  pushq %r15
  movq %rsp, (%rdi)
  movq %rsi, %rsp
  popq %r15
  popq %r14
  popq %r13
  popq %r12
  popq %rbx
  popq %rbp
  ret
.size ccm_emu_switch, .-ccm_emu_switch
)");
#endif

const void* main_stack;
size_t main_stack_size;

void switch_to(Fiber* to) {
  Fiber* from = L->running;
  if (to == from) return;
  ++L->switches;
  L->running = to;
  current = &to->context;
  if (__sanitizer_start_switch_fiber) {
    bool is_main = to == &L->main;
    __sanitizer_start_switch_fiber(from->state == kDone ? nullptr : &from->fake_stack, is_main ? main_stack : to->stack,
                                   is_main ? main_stack_size : kStack);
  }
  if (__tsan_switch_to_fiber) __tsan_switch_to_fiber(to->tsan, 1);  // 1: a switch orders nothing
#if defined(__x86_64__)
  ccm_emu_switch(&from->sp, to->sp);
#else
  swapcontext(&from->machine, &to->machine);
#endif
  if (__sanitizer_finish_switch_fiber) __sanitizer_finish_switch_fiber(from->fake_stack, nullptr, nullptr);
}

std::string where(const Fiber* f) {
  const uint3 &b = f->context.block, &t = f->context.thread;
  char text[500];
  std::snprintf(text, sizeof text, "\n  block (%u,%u,%u) thread (%u,%u,%u) %s at %s:%d", b.x, b.y, b.z, t.x, t.y, t.z,
                f->doing, f->at.file, f->at.line);
  return text;
}
// The first few threads that have not ended, one of each kind of place before a second.
std::string where_all(State state, bool any) {
  std::string text;
  std::map<std::pair<std::string, int>, int> seen;
  int shown = 0;
  for (const Block* b : L->live)
    for (const Fiber* f : b->fibers) {
      if (f->state == kDone || (!any && f->state != state)) continue;
      if (seen[{f->doing + std::string(f->at.file), f->at.line}]++ < 3 && shown++ < 16) text += where(f);
    }
  return text;
}

[[noreturn]] void abandon(const std::string& message) {
  error = message;
  L->failed = true;
  switch_to(&L->main);
  __builtin_trap();
}

void wake(Fiber* f) {
  f->state = kReady;
  L->push(f);
}

void run_next() {  // gives the processor to some ready fiber
  if (!L->ready) {
    if (L->unfinished && !L->live.empty()) {
      std::string places = where_all(kBlocked, false);
      if (!places.empty()) abandon("deadlock, all threads wait for ever:" + places);
    }
    return switch_to(&L->main);
  }
  auto& ring = L->ring;
  if (L->random) std::swap(ring[L->head], ring[(L->head + random_number() % L->ready) % ring.size()]);
  Fiber* to = ring[L->head];
  if (++L->head == ring.size()) L->head = 0;
  --L->ready;
  switch_to(to);
}

void block_here(const char* why, Source source) {
  Fiber* f = L->running;
  f->state = kBlocked, f->doing = why, f->at = source;
  run_next();
  f->doing = "running, last seen";
}

void release_barrier(Barrier& b) {
  for (Fiber *f = b.waiting, *next; f; f = next) {
    next = f->link;
    f->count = b.count;
    wake(f);
  }
  b.waiting = nullptr;
  b.arrived = b.need = b.count = 0;
  b.phase ^= 1;
}

bool complete(Warp& w, int k) {  // if its last lane has come
  if (w.pending[k].arrived != (w.pending[k].c.mask & w.alive)) return false;
  Pending p = w.pending[k];  // before its place is given away
  if (k != --w.count) w.pending[k] = w.pending[w.count];
  if (p.op == kSync && __tsan_acquire) ++w.sync[p.c.mask].phase;
  ++L->collectives;
  if (p.finish && p.arrived) {
    p.c.lanes = p.arrived;
    p.finish(p.c);
  }
  for (unsigned left = p.arrived; left; left &= left - 1) {
    Fiber* f = w.lane[__builtin_ctz(left)];
    if (f->state == kBlocked) wake(f);
  }
  return true;
}

void thread_ended(Fiber* f) {
  Block* b = f->block;
  Warp& w = b->warps[f->context.warp];
  w.alive &= ~(1u << f->context.lane);
  --b->alive;
  --L->unfinished;
  progress();
  for (int k = 0; k < w.count;)
    if (!complete(w, k)) ++k;
  // As in hardware, __syncthreads counts the threads that are left.
  if (b->barrier[0].arrived && !b->barrier[0].need && b->barrier[0].arrived == b->alive) release_barrier(b->barrier[0]);
  if (L->grid_barrier.arrived && static_cast<size_t>(L->grid_barrier.arrived) == L->unfinished)
    release_barrier(L->grid_barrier);
}

void entry() {
  if (__sanitizer_finish_switch_fiber) {
    const void* bottom;
    size_t size;
    __sanitizer_finish_switch_fiber(nullptr, &bottom, &size);
    if (!main_stack) main_stack = bottom, main_stack_size = size;
  }
  acquire(&L->started);
  L->body(L->argument);
  release(&L->ended);
  Fiber* f = L->running;
  f->state = kDone;
  thread_ended(f);
  if (!f->block->alive && L->next_block < L->blocks)
    switch_to(&L->main);  // which starts another block: from here, it would be ordered after this one
  else
    run_next();
  __builtin_trap();
}

// Making a fiber costs ThreadSanitizer 3 ms, so that they are kept for later launches, which are ordered after this
// one. Within a launch none is used twice: the second thread would be ordered after the first.
Machine new_machine() {
  if (!spare_machines.empty()) {
    Machine m = spare_machines.back();
    spare_machines.pop_back();
    // Its last thread never returned from entry(), whose red zones would still be there.
    if (__asan_unpoison_memory_region) __asan_unpoison_memory_region(m.stack, kStack);
    return m;
  }
  void* p = mmap(nullptr, kStack + kGuard, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (p == MAP_FAILED) {
    std::fprintf(stderr, "emulator: no memory for another thread's stack\n");
    std::abort();
  }
  mprotect(p, kGuard, PROT_NONE);
  return {static_cast<char*>(p) + kGuard, __tsan_create_fiber ? __tsan_create_fiber(0) : nullptr};
}

Fiber* new_fiber(Block* b, unsigned number) {
  auto* f = new Fiber;
  f->block = b;
  Machine m = new_machine();
  f->stack = m.stack, f->tsan = m.tsan;
#if defined(__x86_64__)
  // Stacks lie whole pages apart; without this offset all of them would share a few sets of the first-level cache.
  auto** s = reinterpret_cast<void**>(f->stack + kStack - 64 - number * 7 % 64 * 64);
  *--s = nullptr;  // aligns the stack as a call does
  *--s = reinterpret_cast<void*>(&entry);
  for (int i = 0; i < 6; ++i) *--s = nullptr;
  f->sp = s;
#else
  (void)number;
  getcontext(&f->machine);
  f->machine.uc_stack.ss_sp = f->stack;
  f->machine.uc_stack.ss_size = kStack;
  f->machine.uc_link = nullptr;
  makecontext(&f->machine, entry, 0);
#endif
  return f;
}

void start_block() {
  unsigned i = L->order[L->next_block++];
  auto* b = new Block;
  b->id = {i % L->grid.x, i / L->grid.x % L->grid.y, i / L->grid.x / L->grid.y};
  unsigned threads = L->dim.x * L->dim.y * L->dim.z;
  b->warps = std::vector<Warp>((threads + 31) / 32);
  b->dynamic = static_cast<char*>(std::malloc(L->shared ? L->shared : 1));
  for (size_t k = 0; k < L->shared; ++k) b->dynamic[k] = static_cast<char>(L->random ? random_number() : 0xA5);
  b->fixed = static_cast<char*>(std::malloc(kStaticLimit + 64 * kRedZone));
  std::memset(b->fixed, 0xA5, kStaticLimit + 64 * kRedZone);
  if (__asan_poison_memory_region) __asan_poison_memory_region(b->fixed, kStaticLimit + 64 * kRedZone);
  for (unsigned t = 0; t < threads; ++t) {
    Fiber* f = new_fiber(b, t);
    uint3 id{t % L->dim.x, t / L->dim.x % L->dim.y, t / L->dim.x / L->dim.y};
    f->context = {id, b->id, L->dim, L->grid, t & 31, t >> 5};
    if (__tsan_set_fiber_name) {
      char name[64];
      std::snprintf(name, sizeof name, "block %u thread %u", i, t);
      __tsan_set_fiber_name(f->tsan, name);
    }
    b->fibers.push_back(f);
    b->warps[t >> 5].lane[t & 31] = f;
    b->warps[t >> 5].alive |= 1u << (t & 31);
    L->push(f);
  }
  b->alive = static_cast<int>(threads);
  L->live.push_back(b);
  progress();
}

void drop(Block* b) {
  for (Fiber* f : b->fibers) {
    if (f->state == kDone && spare_machines.size() < kMaxThreads) {
      spare_machines.push_back({f->stack, f->tsan});
    } else {  // an abandoned stack may hold a frame's red zones
      if (__tsan_destroy_fiber) __tsan_destroy_fiber(f->tsan);
      munmap(f->stack - kGuard, kStack + kGuard);
    }
    delete f;
  }
  if (__asan_unpoison_memory_region) __asan_unpoison_memory_region(b->fixed, kStaticLimit + 64 * kRedZone);
  std::free(b->dynamic);
  std::free(b->fixed);
  delete b;
}
std::vector<Block*> finished;

void reap() {
  auto keep = L->live.begin();
  for (Block* b : L->live) {
    if (b->alive)
      *keep++ = b;
    else if (__tsan_acquire)
      finished.push_back(b);  // freeing it now would race with its last accesses: nothing orders them before us
    else
      drop(b);
  }
  L->live.erase(keep, L->live.end());
}

long long setting(const char* name, long long otherwise) {
  const char* v = std::getenv(name);
  return v && *v ? std::atoll(v) : otherwise;
}
long long shared_limit() { return setting("CCM_EMU_SMEM", 232448); }

}  // namespace

void fail(const char* format, ...) {
  char text[600];
  va_list arguments;
  va_start(arguments, format);
  std::vsnprintf(text, sizeof text, format, arguments);
  va_end(arguments);
  abandon(text + where(L->running));
}

void progress() { L->idle = 0; }

void fence() {  // orders more than a GPU would: every fence after every earlier fence
  acquire(&L->fenced);
  release(&L->fenced);
  yield(false);
}

void yield(bool spinning) {
  if (!spinning && !(L->random && (random_number() & 1))) return;
  if (spinning && ++L->idle > L->patience) {
    std::string waiting = std::to_string(L->blocks - L->next_block);
    abandon("livelock, threads poll and nothing changes (" + waiting +
            " blocks have not started):" + where_all(kReady, true));
  }
  Fiber* f = L->running;
  f->doing = spinning ? "polling, last seen" : "at an atomic, last seen";
  L->push(f);
  run_next();
  f->doing = "running, last seen";
}

void poll(Source source) {
  L->running->at = source;
  yield(true);
}

void warp_op(unsigned mask, int op, void* operand, Finish finish, Source source) {
  Fiber* f = L->running;
  Warp& w = f->block->warps[f->context.warp];
  unsigned lane = f->context.lane;
  f->at = source;
  if (!(mask >> lane & 1)) fail("warp collective whose mask %08x lacks the calling lane %u", mask, lane);
  char* sync = nullptr;
  if (op == kSync && __tsan_acquire) {
    WarpSync& s = w.sync[mask];
    sync = &s.sync[s.phase & 1];
    release(sync);
  }
  int k = 0;  // other masks that are waited for may overlap this one: their lanes just have not come yet
  while (k < w.count && w.pending[k].c.mask != mask) ++k;
  Pending& p = w.pending[k];
  if (k == w.count) {
    if (w.count == kMaxPending) fail("more than %d masks wait in one warp", kMaxPending - 1);
    ++w.count;
    p.c.mask = mask;
    p.arrived = 0, p.op = op, p.finish = finish, p.source = source;
  } else if (p.op != op || p.finish != finish || p.source.line != source.line) {
    fail("lanes of one mask %08x meet in different warp collectives, at %s:%d and at %s:%d", mask, p.source.file,
         p.source.line, source.file, source.line);
  }
  p.c.operand[lane] = operand;
  p.arrived |= 1u << lane;
  if (!complete(w, k)) block_here("waits in a warp collective", source);
  if (sync) acquire(sync);
  if (L->random && (random_number() & 7) == 0) yield(false);
}

int block_barrier(int id, int count, int predicate, Reduction reduction, bool wait, Source source) {
  Fiber* f = L->running;
  Block* b = f->block;
  f->at = source;
  if (id < 0 || id > 15 || count % 32 != 0) fail("no such barrier: number %d for %d threads", id, count);
  Barrier& r = b->barrier[id];
  // A named barrier may be met from several places, as between a producer and a consumer; __syncthreads may not.
  if (r.arrived && !count && r.source.line != source.line)
    fail("__syncthreads diverges, others wait at %s:%d", r.source.file, r.source.line);
  if (r.arrived && r.need != count)
    fail("barrier %d is met for %d threads here, for %d at %s:%d", id, count, r.need, r.source.file, r.source.line);
  r.source = source, r.need = count;
  char* sync = &r.sync[r.phase & 1];
  release(sync);
  ++r.arrived;
  r.count += predicate;
  int participants = r.arrived;
  if (r.arrived == (count ? count : b->alive)) {
    f->count = r.count;
    release_barrier(r);
  } else if (wait) {
    f->link = r.waiting;
    r.waiting = f;
    block_here("waits in a barrier", source);
    participants = b->alive;
  }
  if (wait) acquire(sync);
  if (reduction == kAnd) return f->count >= participants;
  return reduction == kOr ? f->count > 0 : f->count;
}

void grid_barrier(Source source) {
  Fiber* f = L->running;
  f->at = source;
  if (!L->cooperative) fail("grid.sync() in a launch that is not cooperative");
  Barrier& r = L->grid_barrier;
  char* sync = &r.sync[r.phase & 1];
  release(sync);
  if (static_cast<size_t>(++r.arrived) == L->unfinished) {
    release_barrier(r);
  } else {
    f->link = r.waiting;
    r.waiting = f;
    block_here("waits in grid.sync", source);
  }
  acquire(sync);
}

void* dynamic_shared() { return L->running->block->dynamic; }

void* static_shared(const void* tag, size_t bytes, size_t align) {
  Block* b = L->running->block;
  for (auto& s : b->statics)
    if (s.tag == tag) return s.address;
  size_t begin = (b->fixed_used + align - 1) / align * align;
  if (begin + bytes - b->statics.size() * kRedZone > kStaticLimit) fail("more than 48 KB of static shared memory");
  char* address = b->fixed + begin;
  b->fixed_used = (begin + bytes + 7) / 8 * 8 + kRedZone;  // what lies between is poisoned for AddressSanitizer
  if (__asan_unpoison_memory_region) __asan_unpoison_memory_region(address, bytes);
  b->statics.push_back({tag, address});
  return address;
}

const char* last_error() { return error.c_str(); }

bool capturing() { return capture != nullptr; }

void record(std::function<int()> work) { capture->work.push_back(std::move(work)); }

int refuse_capture(const char* call) {
  if (!capturing()) return cudaSuccess;
  error = std::string(call) + " while work is captured into a graph";
  capture_is_valid = false;
  return cudaErrorStreamCaptureUnsupported;
}

int attribute(int which) {
  switch (which) {
    case cudaDevAttrMultiProcessorCount:
      return static_cast<int>(setting("CCM_EMU_SMS", 4));
    case cudaDevAttrComputeCapabilityMajor:
      return 9;
    case cudaDevAttrCooperativeLaunch:
      return 1;
    case cudaDevAttrMaxSharedMemoryPerBlockOptin:
      return static_cast<int>(shared_limit());
    case cudaDevAttrMaxSharedMemoryPerMultiprocessor:
      return static_cast<int>(shared_limit()) + 1024;
    default:
      return 0;
  }
}

int run(dim3 grid, dim3 dim, size_t shared, bool cooperative, void (*body)(void*), void* argument) {
  std::lock_guard<std::mutex> lock(one_launch);
  error.clear();
  size_t threads = size_t{dim.x} * dim.y * dim.z, blocks = size_t{grid.x} * grid.y * grid.z;
  auto refuse = [](int code, const std::string& why) {
    error = why;
    return code;
  };
  if (!threads || threads > 1024 || !blocks || grid.y > 65535 || grid.z > 65535)
    return refuse(cudaErrorInvalidConfiguration,
                  "invalid launch: " + std::to_string(blocks) + " blocks of " + std::to_string(threads) + " threads");
  if (static_cast<long long>(shared) > shared_limit())
    return refuse(cudaErrorInvalidValue, "invalid launch: " + std::to_string(shared) + " bytes of shared memory of " +
                                             std::to_string(shared_limit()));
  if (__tsan_create_fiber && blocks * threads > kMaxTsanThreads)
    return refuse(cudaErrorInvalidConfiguration, "under ThreadSanitizer a launch has at most " +
                                                     std::to_string(kMaxTsanThreads) + " threads, not " +
                                                     std::to_string(blocks * threads));
  size_t most = kMaxThreads / threads;
  long long wanted = setting("CCM_EMU_RESIDENT", 0);
  if (wanted > 0 && static_cast<size_t>(wanted) < most) most = static_cast<size_t>(wanted);
  if (cooperative && blocks > most)
    return refuse(cudaErrorCooperativeLaunchTooLarge,
                  "cooperative launch of " + std::to_string(blocks) + " blocks where " + std::to_string(most) + " fit");
  Launch launch;
  L = &launch;
  launch.grid = grid, launch.dim = dim, launch.shared = shared, launch.cooperative = cooperative;
  launch.body = body, launch.argument = argument;
  launch.blocks = static_cast<unsigned>(blocks);
  launch.unfinished = blocks * threads;
  launch.resident = static_cast<unsigned>(most < blocks ? most : blocks);
  launch.patience = static_cast<unsigned long long>(setting("CCM_EMU_PATIENCE", 10000000));
  auto seed = static_cast<uint64_t>(setting("CCM_EMU_SEED", 0));
  launch.random = seed != 0;
  launch.random_state = seed * 0x9E3779B97F4A7C15ull + 88172645463325252ull;
  for (unsigned i = 0; i < launch.blocks; ++i) launch.order.push_back(i);
  if (launch.random)
    for (unsigned i = launch.blocks; i > 1; --i) std::swap(launch.order[i - 1], launch.order[random_number() % i]);
  launch.ring.resize((launch.resident + 1) * threads);
  launch.running = &launch.main;
  if (__tsan_get_current_fiber) launch.main.tsan = __tsan_get_current_fiber();
  main_stack = nullptr;
  Context* outer = current;
  while (!launch.failed && launch.unfinished) {
    while (launch.live.size() < launch.resident && launch.next_block < launch.blocks) start_block();
    release(&launch.started);
    run_next();
    if (!launch.failed) reap();
  }
  current = outer;
  acquire(&launch.ended);
  for (Block* b : launch.live) drop(b);
  for (Block* b : finished) drop(b);
  finished.clear();
  if (std::getenv("CCM_EMU_STATS"))
    std::fprintf(stderr, "emulator: %llu switches, %llu warp collectives\n", launch.switches, launch.collectives);
  L = nullptr;
  return launch.failed ? cudaErrorLaunchFailure : cudaSuccess;
}

// ---- tensor cores --------------------------------------------------------------------------------------------------
namespace {

// d[row][column] += a[row][k] b[column][k]: 8-bit values of any sign, in 16-bit pairs as SSE2 multiplies them.
template <int ROWS, int K>
void multiply(const unsigned (&a)[ROWS][K / 4], const unsigned (&b)[8][K / 4], bool a_signed, bool b_signed,
              int (&d)[ROWS][8]) {
  auto value = [](unsigned word, int i, bool is_signed) {
    auto byte = static_cast<uint8_t>(word >> (8 * i));
    return static_cast<int16_t>(is_signed ? static_cast<int8_t>(byte) : byte);
  };
#if defined(__x86_64__)
  auto widen = [](const unsigned* words, bool is_signed, __m128i* out) {
    for (int i = 0; i < K / 16; ++i) {
      __m128i v = _mm_loadu_si128(reinterpret_cast<const __m128i*>(words) + i), zero = _mm_setzero_si128();
      out[2 * i] = is_signed ? _mm_srai_epi16(_mm_unpacklo_epi8(zero, v), 8) : _mm_unpacklo_epi8(v, zero);
      out[2 * i + 1] = is_signed ? _mm_srai_epi16(_mm_unpackhi_epi8(zero, v), 8) : _mm_unpackhi_epi8(v, zero);
    }
  };
  (void)value;
  alignas(16) int pairs_of_b[8][K / 2], by_pair[K / 2][8];
  for (int n = 0; n < 8; ++n) widen(b[n], b_signed, reinterpret_cast<__m128i*>(pairs_of_b[n]));
  for (int p = 0; p < K / 2; ++p)
    for (int n = 0; n < 8; ++n) by_pair[p][n] = pairs_of_b[n][p];
  for (int r = 0; r < ROWS; ++r) {
    alignas(16) int pairs[K / 2];
    widen(a[r], a_signed, reinterpret_cast<__m128i*>(pairs));
    __m128i lo = _mm_setzero_si128(), hi = lo;
    for (int p = 0; p < K / 2; ++p) {
      __m128i x = _mm_set1_epi32(pairs[p]);
      lo = _mm_add_epi32(lo, _mm_madd_epi16(x, *reinterpret_cast<const __m128i*>(by_pair[p])));
      hi = _mm_add_epi32(hi, _mm_madd_epi16(x, *reinterpret_cast<const __m128i*>(by_pair[p] + 4)));
    }
    _mm_storeu_si128(reinterpret_cast<__m128i*>(d[r]), lo);
    _mm_storeu_si128(reinterpret_cast<__m128i*>(d[r] + 4), hi);
  }
#else
  for (int r = 0; r < ROWS; ++r)
    for (int n = 0; n < 8; ++n) {
      int sum = 0;  // at most 32 products below 2^16
      for (int k = 0; k < K; ++k) sum += value(a[r][k / 4], k % 4, a_signed) * value(b[n][k / 4], k % 4, b_signed);
      d[r][n] = sum;
    }
#endif
}
int wrapping_sum(int a, int b) { return static_cast<int>(static_cast<unsigned>(a) + static_cast<unsigned>(b)); }

}  // namespace

void multiply_16832(const Collective& c, bool a_signed, bool b_signed) {
  if (c.lanes != 0xffffffffu) fail("mma without all 32 lanes, only %08x", c.lanes);
  alignas(16) unsigned a[16][8], b[8][8];
  for (int lane = 0; lane < 32; ++lane) {
    auto* f = static_cast<const Fragments*>(c.operand[lane]);
    int g = lane / 4, t = lane % 4;
    a[g][t] = f->a[0], a[g + 8][t] = f->a[1], a[g][4 + t] = f->a[2], a[g + 8][4 + t] = f->a[3];
    b[g][t] = f->b[0], b[g][4 + t] = f->b[1];
  }
  int d[16][8];
  multiply<16, 32>(a, b, a_signed, b_signed, d);
  for (int lane = 0; lane < 32; ++lane) {
    auto* f = static_cast<Fragments*>(c.operand[lane]);
    for (int i = 0; i < 4; ++i) f->d[i] = wrapping_sum(f->d[i], d[lane / 4 + i / 2 * 8][lane % 4 * 2 + i % 2]);
  }
}

void multiply_8816(const Collective& c, bool a_signed, bool b_signed) {
  if (c.lanes != 0xffffffffu) fail("mma without all 32 lanes, only %08x", c.lanes);
  alignas(16) unsigned a[8][4], b[8][4];
  for (int lane = 0; lane < 32; ++lane) {
    auto* f = static_cast<const Fragments*>(c.operand[lane]);
    a[lane / 4][lane % 4] = f->a[0];
    b[lane / 4][lane % 4] = f->b[0];
  }
  int d[8][8];
  multiply<8, 16>(a, b, a_signed, b_signed, d);
  for (int lane = 0; lane < 32; ++lane) {
    auto* f = static_cast<Fragments*>(c.operand[lane]);
    for (int i = 0; i < 2; ++i) f->d[i] = wrapping_sum(f->d[i], d[lane / 4][lane % 4 * 2 + i]);
  }
}

}  // namespace emu

cudaError_t cudaStreamBeginCapture(cudaStream_t, cudaStreamCaptureMode) {
  if (emu::capture) return cudaErrorStreamCaptureUnsupported;
  emu::capture = new emu_graph;
  emu::capture_is_valid = true;
  emu::error.clear();
  return cudaSuccess;
}

cudaError_t cudaStreamEndCapture(cudaStream_t, cudaGraph_t* graph) {
  *graph = emu::capture;
  emu::capture = nullptr;
  if (*graph && emu::capture_is_valid) return cudaSuccess;
  delete *graph;
  *graph = nullptr;
  return cudaErrorStreamCaptureInvalidated;
}
