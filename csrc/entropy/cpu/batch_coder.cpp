// The decoder of a batch of images, and the encoder of residual models and of those that skip symbols, which takes the
// same steps in the same order.
#include <algorithm>
#include <atomic>
#include <chrono>
#include <condition_variable>
#include <memory>
#include <mutex>

#include "base/interrupt.h"
#include "base/threads.h"
#include "entropy/cpu/batch_image.h"
#include "entropy/cpu/step_symbols.h"

namespace ccm {
namespace {

// Steps that a thread runs before it looks around again: long enough (about 0.2 ms) for the lock not to matter, short
// enough for the next group to follow closely.
constexpr int32_t kStepsPerTask = 16;
// Rows of a layer of the dense part per task (about 0.2 ms each for ccm-small at 48 columns).
constexpr int32_t kRowsPerTask = 4;
// Tasks are so many times as long where nobody else is likely to come soon.
constexpr int32_t kAloneTimes = 8;

#if !defined(CCM_SHARE_ALL)
// From so many columns on it is one row, and contexts are cleared column by column.
constexpr int32_t kWide = 1 << 14;
// The dense part may be so many positions ahead of the steps, or of one task: what is taken for planes of many
// megabytes follows what a stream has proven to hold. Planes of pictures up to 16 megapixels are no larger.
constexpr int32_t kAheadPositions = 1 << 16;

// Multiply-adds of a step (about 30 us, of words and of VNNI's bytes) from which on other threads are asked to help,
// and the positions that are worth a thread's while: products of fewer rows wait for their own sums.
constexpr int64_t kSharedStep = 2000000, kSharedStepOfBytes = 8000000;
constexpr int32_t kSharedPositions = 4;
constexpr bool kAlwaysAsk = false;
#else  // tests, whose planes are small: of 14 columns wide ones, of 9 not
constexpr int32_t kWide = 12, kAheadPositions = 20;
constexpr int64_t kSharedStep = 0, kSharedStepOfBytes = 0;
constexpr int32_t kSharedPositions = 1;
constexpr bool kAlwaysAsk = true;
#endif

using Clock = std::chrono::steady_clock;
// How long a thread with nothing to do looks for steps to help with before it sleeps, where helping pays. The next step
// of mbt2018 comes after 30 to 100 us, when the symbols of this one are decoded; what sleeps is late for it.
constexpr std::chrono::microseconds kLookout{200};

// Multiply-adds of a position.
int64_t step_products(const GroupDesc& d) {
  int64_t n = int64_t{d.taps} * d.channels * d.base_pad;
  if (d.f_output == kHead) return n;
  for (int32_t l = 0; l < d.hidden_layers; ++l) n += int64_t{d.hidden[l].cin_pad} * d.hidden[l].n_pad;
  return n + int64_t{d.head.cin_pad} * d.head.n_pad;
}

struct Task {
  BatchImage* image = nullptr;
  int32_t group = 0;
  int32_t first_step = 0, last_step = 0;  // equal: a task of the dense part
  Group::DenseTask dense{};
  bool alone = false;  // nobody is there who could help
  Pages read[2];       // by tasks before: memory that is to be given back, which stays until this one is finished
};

// What nobody needs after a task.
struct Over {
  bool some = false;
  std::unique_ptr<BatchImage> image;
  Group::Memory group;
};

// Positions of all images that one thread goes through in about 20 ms, which is when other calls get workers where
// these do not pay (likely_threads()). Then fewer are left to one thread from the start: tasks for several, and workers
// that wake up to find that they are not wanted, took 2 to 6 % more.
constexpr int64_t kShort = 3072;

int threads_that_pay(int threads, int64_t positions) { return positions <= kShort ? likely_threads(threads) : threads; }

class BatchCoder {
 public:
  // code: for encoders, as that of encode_stream. Groups from `groups` on are left out.
  BatchCoder(const PackedModel& m, int32_t h, int32_t w, int32_t code, int threads, std::vector<BatchJob> jobs,
             int32_t groups = kMaxGroups)
      : m_(m),
        k_(kernels_of(m)),
        h_(h),
        w_(w),
        code_(code),
        groups_(std::min(groups, m.groups)),
        threads_(threads_that_pay(threads, int64_t{h} * w * static_cast<int64_t>(jobs.size()))),
        rows_per_task_(w < kWide ? kRowsPerTask : 1),
        rows_ahead_(std::max(rows_per_task_, kAheadPositions / w)),
        orders_(step_orders(m, h, w)),
        jobs_(std::move(jobs)),
        shares_(threads_ > 1 ? static_cast<size_t>(threads_) : 0) {
    for (int32_t g = 0; g < groups_; ++g) {
      int32_t longest = 0;
      all_steps_ += orders_[g]->steps() * static_cast<int64_t>(jobs_.size());
      for (int32_t s = 0; s < orders_[g]->steps(); ++s) longest = std::max(longest, orders_[g]->positions(s));
      sharing_ |= threads_ > 1 && worth_sharing(g, longest);
    }
  }

  void run() {
    images_.resize(jobs_.size());
    open_images();
    run_threads(threads_, [this](int thread) { work(thread); });
  }

 private:
  // Only as many images are open as there are threads to work on them: an image's buffers are many times its latents.
  void open_images() {
    while (next_ < jobs_.size() && open_ < static_cast<size_t>(threads_)) {
      images_[next_] = std::make_unique<BatchImage>(m_, k_, h_, w_, groups_, jobs_[next_]);
      ++next_;
      ++open_;
    }
  }

  bool finished(const BatchImage& image) const {
    return image.failed || image.steps_done.back() == orders_[groups_ - 1]->steps();
  }

  // The next thing worth doing, earliest image and group first (they are what others wait for). Under the lock.
  bool pick(Task& task) {
    const bool alone = present_ == 1;
    const int32_t times = alone && threads_ > 1 && likely_threads(threads_) == 1 ? kAloneTimes : 1;
    for (auto& image : images_) {
      if (!image || image->failed) continue;
      for (int32_t g = 0; g < groups_; ++g) {
        Group& group = image->groups[g];
        const StepOrder& order = *orders_[g];
        const int32_t done = image->steps_done[g];
        if (done == order.steps()) continue;
        task = {image.get(), g, done, done, {}, alone, {}};
        if (!image->busy[g]) {
          const bool all = threads_ == 1 && w_ < kWide;
          const int32_t limit = all ? order.steps() : std::min(order.steps(), done + kStepsPerTask * times);
          while (task.last_step < limit && order.needs_rows[task.last_step] <= group.dense_rows()) ++task.last_step;
        }
        if (task.last_step > done) {
          image->busy[g] = 1;
          // Whatever reads the context of later groups comes after these steps; a border lies around the last rows.
          const int32_t last = task.last_step - 1;
          const int32_t columns = w_ < kWide ? w_ : order.needs_columns[last];
          if (g == 0) image->context.clear_to(order.needs_rows[last] + kBorder, columns + kBorder);
          task.read[0] = group.drop_base(order.rows_done[done]);
          if (g + 1 == groups_) task.read[1] = image->context.drop_to(order.rows_done[done] - kBorder);
        } else {
          const int32_t earlier = g == 0 ? h_ : orders_[g - 1]->rows_done[image->steps_done[g - 1]];
          const int32_t chunk = threads_ == 1 ? rows_ahead_ : std::min(rows_ahead_, rows_per_task_ * times);
          if (!group.claim_dense(earlier, chunk, rows_per_task_, order.needs_rows[done] + rows_ahead_, task.dense))
            continue;
          if (g == 0 && m_.group[g].stack_layers + m_.group[g].has_skip) image->context.clear_to(h_ + kBorder);
          task.read[0] = group.drop_features(task.dense.layer);
        }
        ++image->running;
        return true;
      }
    }
    return false;
  }

  void work(int thread) {
    StepBuffers buffers;
    if (threads_ > 1) buffers.share = &shares_[thread];
    std::unique_lock<std::mutex> lock(mutex_);
    ++present_;
    try {
      while (rest(lock, thread) && step(lock, buffers)) {
      }
      over_.notify_all();
    } catch (...) {  // out of memory: without this the others would wait for ever for what this thread had taken
      if (!lock.owns_lock()) lock.lock();
      aborted_ = true;
      tell();
      over_.notify_all();
      throw;
    }
  }

  // Wakes the workers that wait. The caller holds mutex_.
  void tell() {
    changes_.fetch_add(1, std::memory_order_relaxed);
    changed_.notify_all();
  }

  bool over() const { return aborted_ || (open_ == 0 && next_ == jobs_.size()); }

  // Waits as long as this thread would bring nothing; false when there will be no task any more.
  bool rest(std::unique_lock<std::mutex>& lock, int thread) {
    if (threads_ == 1) return true;
    while (!over()) {
      const auto pause = rest_from_call(thread == 0);
      if (pause.count() == 0) return true;
      --present_;
      over_.wait_for(lock, pause);
      ++present_;
      if (kAlwaysAsk) return true;
    }
    return false;
  }

  // One task; false when there will be none any more.
  bool step(std::unique_lock<std::mutex>& lock, StepBuffers& buffers) {
    Task task;
    while (aborted_ || !pick(task)) {
      if (over()) return false;
      const uint32_t seen = changes_.load(std::memory_order_relaxed);
      if (sharing_) {
        lock.unlock();
        help_others(seen, buffers.scratch);
        lock.lock();
      }
      ++sleeping_;
      changed_.wait(lock, [&] { return changes_.load(std::memory_order_relaxed) != seen; });
      --sleeping_;
    }
    const double share = static_cast<double>(steps_) / static_cast<double>(all_steps_);
    lock.unlock();
    poll(share);
    bool good = true;
    for (const Pages& pages : task.read) give_back(pages);
    if (task.first_step == task.last_step)
      task.image->groups[task.group].run_dense(task.dense, task.image->context, task.image->job.psi);
    else
      good = run_steps(task, buffers);
    lock.lock();
    Over over = finish(task, good);
    tell();
    if (over.some) {
      lock.unlock();  // the system takes its time for large arrays
      over = {};
      lock.lock();
    }
    return true;
  }

  // Until there is something else to do, or nobody has needed help for a while.
  void help_others(uint32_t seen, StepScratch& scratch) {
    auto last = Clock::now();
    while (changes_.load(std::memory_order_relaxed) == seen) {
      bool helped = false;
      for (Share& share : shares_) helped |= share.help(scratch);
      const auto now = Clock::now();
      if (helped)
        last = now;
      else if (now - last > kLookout || !help_pays_.load(std::memory_order_relaxed))
        return;
      else
        relax();
    }
  }

  bool worth_sharing(int32_t g, int32_t count) const {
    const int64_t least = k_.element_bytes == 1 ? kSharedStepOfBytes : kSharedStep;
    return count >= 2 * kSharedPositions && count * step_products(m_.group[g]) >= least;
  }

  // Rows and offsets of the positions of step s of a run that ends before `end`, and of the own context what is there
  // for steps after it; ask: with the help of others.
  void step_parameters(BatchImage& image, int32_t g, int32_t s, int32_t end, bool ask, StepBuffers& b) {
    const StepOrder& order = *orders_[g];
    const int32_t first = order.first[s];
    StepWork work{&image.groups[g], &image.context, &order.row[first], &order.col[first], 0, 0};
    if (k_.add)
      for (; work.part + 1 < kParts; ++work.part) {
        work.count = order.first[image.groups[g].claim_part(order, s, end, work.part)] - first;
        if (work.count) run_work(work, ask, b);
      }
    work.count = order.positions(s);
    work.rows = b.rows.data();
    work.offsets = b.offsets.data();
    run_work(work, ask, b);
  }

  void run_work(const StepWork& work, bool ask, StepBuffers& b) {
    if (!ask) return work.run(0, work.count, b.scratch);
    b.share->run(work, std::max(1, std::min(threads_, work.count / kSharedPositions)), b.scratch, [this] {
      if (!sleeping_.load(std::memory_order_relaxed)) return;
      const std::lock_guard<std::mutex> lock(mutex_);
      tell();
    });
  }

  bool run_steps(const Task& task, StepBuffers& b) {
    BatchImage& image = *task.image;
    const GroupDesc& d = m_.group[task.group];
    const StepOrder& order = *orders_[task.group];
    HelpGauge& gauge = HelpGauge::of(&m_);
    for (int32_t s = task.first_step; s < task.last_step; ++s) {
      // One thread takes whole groups of a small picture as one task.
      if ((s - task.first_step) % kStepsPerTask == kStepsPerTask - 1) poll();
      const int32_t count = order.positions(s);
      b.fit(static_cast<size_t>(count) * d.channels, m_.skip_rows);
      const bool long_step = sharing_ && !task.alone && worth_sharing(task.group, count);
      const bool ask = long_step && (gauge.ask() || kAlwaysAsk);
      if (long_step) help_pays_.store(ask, std::memory_order_relaxed);
      const auto begin = long_step ? Clock::now() : Clock::time_point();
      step_parameters(image, task.group, s, task.last_step, ask, b);
      if (!code_symbols(m_, order, w_, image, task.group, s, b)) return false;
      if (long_step) gauge.note(std::chrono::duration<double>(Clock::now() - begin).count() / count);
    }
    if (image.job.encoded && task.last_step == order.steps()) write_stream(m_, order, image, task.group, code_);
    return true;
  }

  // Under the lock; what is returned is freed without it.
  Over finish(const Task& task, bool good) {
    Over over;
    BatchImage& image = *task.image;
    --image.running;
    if (task.last_step > task.first_step) {
      image.busy[task.group] = 0;
      image.steps_done[task.group] = task.last_step;
      steps_ += task.last_step - task.first_step;
    } else {
      image.groups[task.group].complete_dense(task.dense);
    }
    if (task.last_step == orders_[task.group]->steps() && good) {
      if (image.job.streams && image.streams[task.group].finish() != kOk) good = false;
      over.group = image.groups[task.group].release();
      over.some = true;
    }
    if (!good && !image.failed) {  // a decoder
      image.failed = true;
      const Status status = image.streams[task.group].finish();
      *image.job.status = status == kOk ? kDamaged : status;
    }
    if (finished(image) && image.running == 0) {
      for (auto& slot : images_)
        if (slot.get() == &image) over.image = std::move(slot);
      over.some = true;
      --open_;
      open_images();
    }
    return over;
  }

  const PackedModel& m_;
  const Kernels& k_;
  const int32_t h_, w_, code_;
  const int32_t groups_;  // that are gone through, at least 1
  const int threads_;
  const int32_t rows_per_task_, rows_ahead_;                    // of the dense part
  const std::vector<std::shared_ptr<const StepOrder>> orders_;  // of each group
  const std::vector<BatchJob> jobs_;
  std::vector<std::unique_ptr<BatchImage>> images_;
  size_t next_ = 0, open_ = 0;
  int64_t steps_ = 0, all_steps_ = 0;  // done, and to be done, of all images
  int present_ = 0;                    // threads that do not rest
  bool aborted_ = false;
  std::mutex mutex_;
  std::condition_variable changed_, over_;
  std::atomic<uint32_t> changes_{0};
  std::atomic<int> sleeping_{0};       // workers; written under mutex_
  std::atomic<bool> help_pays_{true};  // as the thread has found that took the last long step
  std::vector<Share> shares_;          // of each thread
  bool sharing_ = false;               // some steps are long enough
};

}  // namespace

void decode_y(const PackedModel& m, int32_t h, int32_t w, int threads, std::vector<DecodeJob>& jobs, int32_t groups) {
  std::vector<BatchJob> all;
  for (DecodeJob& j : jobs) {
    j.status = kOk;
    all.push_back({j.psi, j.y, j.streams, &j.status, nullptr, nullptr, j.rows, j.offsets, j.values, j.shifts, nullptr,
                   j.groups_read, j.means, j.wanted.height ? j.wanted : Area{0, 0, h, w}});
  }
  BatchCoder(m, h, w, 0, threads, std::move(all), groups).run();
}

void encode_y_residual(const PackedModel& m, int32_t h, int32_t w, int32_t code, int threads,
                       const std::vector<ResidualJob>& jobs) {
  std::vector<BatchJob> all;
  for (const ResidualJob& j : jobs) all.push_back({j.psi, j.y, nullptr, nullptr, j.latents, j.streams});
  BatchCoder(m, h, w, code, threads, std::move(all)).run();
}

void settle_y(const PackedModel& m, int32_t h, int32_t w, int32_t code, int threads,
              const std::vector<SettleJob>& jobs) {
  std::vector<BatchJob> all;
  for (const SettleJob& j : jobs)
    all.push_back({j.psi, j.y, nullptr, nullptr, nullptr, j.streams, j.rows, j.offsets, nullptr, nullptr, j.known});
  BatchCoder(m, h, w, code, threads, std::move(all)).run();
}

}  // namespace ccm
