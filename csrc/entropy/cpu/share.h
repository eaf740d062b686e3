// Idle threads take slices of the current wavefront step. Models with a single group have no other parallelism.
#pragma once
#include <algorithm>
#include <atomic>
#include <cstdint>
#include <new>
#include <thread>

#include "base/threads.h"
#include "entropy/cpu/group_cpu.h"

namespace ccm {

// What is wanted: rows and offsets of `count` positions (Group::parameters).
struct StepWork {
  const Group* group;
  const Plane* context;
  const int32_t *row, *col;
  int32_t count;
  uint16_t* rows;
  int16_t* offsets;
};

// Belongs to one thread, which runs steps; others may take pieces of the one that is under way.
class Share {
 public:
  // Computes everything in `pieces`, with whoever helps. Nobody waits for a thread that has taken nothing. Throws
  // std::bad_alloc when this thread or one that helped runs out of memory.
  void run(const StepWork& work, int32_t pieces, StepScratch& scratch) {
    work_ = work;
    pieces_ = pieces;
    done_.store(0, std::memory_order_relaxed);
    tickets_.store(pieces, std::memory_order_release);
    try {
      while (help(scratch)) {
      }
    } catch (...) {  // nobody may go on with buffers that this thread is about to give up
      done_.fetch_add(std::max(0, tickets_.exchange(0, std::memory_order_acquire)), std::memory_order_relaxed);
      wait();
      throw;
    }
    wait();
    if (failed_.load(std::memory_order_relaxed)) throw std::bad_alloc();
  }

  // Takes a piece and computes it; false when there is none. For any thread.
  bool help(StepScratch& scratch) {
    if (tickets_.load(std::memory_order_relaxed) <= 0) return false;
    const int32_t piece = tickets_.fetch_sub(1, std::memory_order_acquire) - 1;
    if (piece < 0) return false;
    try {
      const StepWork& w = work_;
      const int64_t first = int64_t{w.count} * piece / pieces_, last = int64_t{w.count} * (piece + 1) / pieces_;
      const int64_t symbols = first * w.group->channels();
      w.group->parameters(*w.context, w.row + first, w.col + first, static_cast<int32_t>(last - first), scratch,
                          w.rows + symbols, w.offsets + symbols);
    } catch (...) {
      failed_.store(true, std::memory_order_relaxed);
      done_.fetch_add(1, std::memory_order_release);
      throw;
    }
    done_.fetch_add(1, std::memory_order_release);
    return true;
  }

 private:
  // What others have taken takes them no longer than a piece takes, unless the system has stopped them.
  void wait() const {
    for (int tries = 0; done_.load(std::memory_order_acquire) < pieces_; ++tries)
      tries < 1000 ? relax() : std::this_thread::yield();
  }

  std::atomic<int32_t> tickets_{0};  // pieces that nobody has taken
  std::atomic<int32_t> done_{0};
  std::atomic<bool> failed_{false};
  // Written only while no ticket is out.
  StepWork work_{};
  int32_t pieces_ = 0;
};

}  // namespace ccm
