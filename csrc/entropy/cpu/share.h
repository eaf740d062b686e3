// Idle threads take slices of the current wavefront step. Models with a single group have no other parallelism.
#pragma once
#include <algorithm>
#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <mutex>
#include <new>

#include "entropy/cpu/group_cpu.h"

namespace ccm {

// What is wanted of `count` positions: rows and offsets (Group::parameters), or, where those are null, that their bases
// get a part (Group::add_part).
struct StepWork {
  const Group* group;
  const Plane* context;
  const int32_t *row, *col;
  int32_t count, part;  // part: the first one that bases lack
  uint16_t* rows = nullptr;
  int16_t* offsets = nullptr;

  // Of positions [first, last).
  void run(int64_t first, int64_t last, StepScratch& scratch) const {
    const int32_t n = static_cast<int32_t>(last - first);
    if (!rows) return group->add_part(*context, row + first, col + first, n, part);
    const int64_t symbols = first * group->channels();
    group->parameters(*context, row + first, col + first, n, part, scratch, rows + symbols, offsets + symbols);
  }
};

// Belongs to one thread, which runs steps; others may take pieces of the one that is under way.
class Share {
 public:
  // Computes everything in `pieces`, with whoever helps; call() tells the others once there are pieces to take. Nobody
  // waits for a thread that has taken nothing. Throws std::bad_alloc when this thread or one that helped runs out of
  // memory.
  template <class Call>
  void run(const StepWork& work, int32_t pieces, StepScratch& scratch, Call call) {
    work_ = work;
    pieces_ = pieces;
    done_.store(0, std::memory_order_relaxed);
    tickets_.store(pieces, std::memory_order_release);
    try {
      call();
      while (help(scratch)) {
      }
    } catch (...) {  // nobody may go on with buffers that this thread is about to give up
      done_.fetch_add(std::max(0, tickets_.exchange(0, std::memory_order_acquire)));
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
      w.run(int64_t{w.count} * piece / pieces_, int64_t{w.count} * (piece + 1) / pieces_, scratch);
    } catch (...) {
      failed_.store(true, std::memory_order_relaxed);
      finish_piece();
      throw;
    }
    finish_piece();
    return true;
  }

 private:
  // The owner sleeps until the last piece is done: the thread that computes it may need this core.
  void wait() {
    if (done_.load(std::memory_order_acquire) == pieces_) return;
    std::unique_lock<std::mutex> lock(mutex_);
    waiting_.store(true);
    all_done_.wait(lock, [&] { return done_.load() == pieces_; });
    waiting_.store(false, std::memory_order_relaxed);
  }

  // Both this and wait() write before they read what the other has written, in one order for all: one of them sees it.
  void finish_piece() {
    done_.fetch_add(1);
    if (!waiting_.load()) return;
    std::lock_guard<std::mutex> lock(mutex_);
    all_done_.notify_one();
  }

  std::atomic<int32_t> tickets_{0};  // pieces that nobody has taken
  std::atomic<int32_t> done_{0};
  std::atomic<bool> failed_{false}, waiting_{false};
  std::mutex mutex_;
  std::condition_variable all_done_;
  // Written only while no ticket is out.
  StepWork work_{};
  int32_t pieces_ = 0;
};

// Whether steps are done sooner with help: beside a process that keeps a core busy, a helper takes the core of the
// thread that asks. Measures both ways, some steps of each, keeps to the better one for a while and tries the other one
// again.
class HelpGauge {
 public:
  // This thread's, which goes on from call to call with the same model.
  static HelpGauge& of(const void* model) {
    thread_local HelpGauge gauge;
    if (gauge.model_ != model) gauge = HelpGauge();
    gauge.model_ = model;
    return gauge;
  }

  bool ask() {
    if (left_-- == 0) next_run();
    return asks_;
  }

  // What a position of the step took, in any unit.
  void note(double cost) {
    if (waking_ > 0) {
      --waking_;
      return;
    }
    double& known = cost_[asks_];
    int& steps = steps_[asks_];
    steps = std::min(steps + 1, kTried);
    known += (cost - known) / steps;
  }

 private:
  static constexpr int kTried = 48, kKept = 480;
  static constexpr int kWaking = 4;  // steps that a helper may need to wake up

  // The first runs are with help, alone, with help: steps grow, so that either way has the same on average.
  void next_run() {
    if (runs_++ < 3) {
      asks_ = runs_ != 2;
      left_ = kWaking + (asks_ ? kTried / 2 : kTried) - 1;
    } else {
      const bool trial = runs_ % 2, better = cost_[1] <= cost_[0];
      asks_ = better != trial;
      left_ = kWaking + (trial ? kTried : kKept) - 1;
    }
    waking_ = kWaking;
  }

  const void* model_ = nullptr;
  double cost_[2] = {0, 0};  // alone, with help
  int steps_[2] = {0, 0};
  int left_ = 0, runs_ = 0, waking_ = 0;
  bool asks_ = true;
};

}  // namespace ccm
