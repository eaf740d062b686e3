// Where threads meet: warp collectives and barriers.
#include "state.h"

namespace emu {
namespace {

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

}  // namespace

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
  r.count += reduction == kAnd ? !predicate : predicate;  // of kAnd those that do not hold
  if (r.arrived == (count ? count : b->alive)) {
    f->count = r.count;
    release_barrier(r);
  } else if (wait) {
    f->link = r.waiting;
    r.waiting = f;
    block_here("waits in a barrier", source);
  }
  if (wait) acquire(sync);
  if (reduction == kAnd) return f->count == 0;
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

}  // namespace emu
