// Fibers and their scheduler.
#include <sys/mman.h>

#include <cstdarg>
#include <cstdio>
#include <cstdlib>

#include "state.h"

namespace emu {
Context* current = nullptr;
Launch* L = nullptr;
std::string error;

namespace {

constexpr size_t kStack = 128 * 1024, kGuard = 4096;

struct Machine {
  char* stack;
  void* tsan;
};
std::vector<Machine> spare_machines;

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

}  // namespace

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

void wake(Fiber* f) {
  f->state = kReady;
  L->push(f);
}

void run_next() {
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

namespace {

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

}  // namespace

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

void drop(Fiber* f) {
  if (f->state == kDone && spare_machines.size() < kMaxThreads) {
    spare_machines.push_back({f->stack, f->tsan});
  } else {  // an abandoned stack may hold a frame's red zones
    if (__tsan_destroy_fiber) __tsan_destroy_fiber(f->tsan);
    munmap(f->stack - kGuard, kStack + kGuard);
  }
  delete f;
}

void adopt_main() {
  L->running = &L->main;
  if (__tsan_get_current_fiber) L->main.tsan = __tsan_get_current_fiber();
  main_stack = nullptr;
}

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

}  // namespace emu
