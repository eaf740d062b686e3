// One block codes one group of one image: its steps, one after another.
#pragma once
#include "entropy/cuda/crew.cuh"
#include "entropy/cuda/step_list.cuh"
#include "format/residual.h"

namespace ccm {

// Steps between two announcements of progress, which a warp makes that has nothing else to do at the time.
constexpr int32_t kStepsPerNews = 1;

// A chunk at a time: its list is written, then decoded. While the first warps decode it, the others write the next
// chunk's, if that does not wait for these symbols; else they begin its sums. Symbols that are not coded are published
// by them, too.
// kCrews: other blocks may compute its networks.
template <bool kInShared, bool kCrews>
class GroupCoder : StepList<kInShared> {
  using Parts = StepList<kInShared>;
  using Parts::a_;
  using Parts::bad;
  using Parts::base_is_there;
  using Parts::coded;
  using Parts::crewed;
  using Parts::d;
  using Parts::group_;
  using Parts::image_;
  using Parts::known;
  using Parts::list;
  using Parts::listed;
  using Parts::m_;
  using Parts::order;
  using Parts::ring;
  using Parts::shared_;
  using Parts::stop;
  using Parts::stream;
  using Parts::tables;
  using Parts::tile_of;
  using Parts::unit;

 public:
  // `arena`: this block's memory, in `shared` or not.
  CCM_DEVICE GroupCoder(const LatentsArgs& a, unsigned char* shared, unsigned char* arena) : Parts(a, shared, arena) {
#pragma unroll 1
    for (int32_t i = threadIdx.x; i < kNumScales; i += blockDim.x) this->scale_rows()[i] = m_.scale_rows[i];
    if (a_.tables >= 0)
      this->copy(shared_ + a_.tables, m_.template at<RowWindow>(m_.y_rows.windows), m_.y_rows.window_bytes());
  }

  CCM_DEVICE bool active() const { return group_ >= 0; }
  CCM_DEVICE int32_t image() const { return image_; }
  CCM_DEVICE int32_t group() const { return group_; }

  CCM_DEVICE void begin(int32_t image, int32_t group) {
    image_ = image;
    group_ = group;
    step_ = at_ = which_ = decoded_ = carried_ = 0;
    untold_ = written_ = based_ = false;
#pragma unroll 1
    for (int32_t i = threadIdx.x; known() && i < a_.tiles; i += blockDim.x) known()[i] = 0;
    this->keep_weights(this->behind_lists(), 0, [](int32_t tiles) { return tiles; });
    if (threadIdx.x == 0) {
      *stop() = *bad() = 0;
      *coded() = 0;
      *crewed() = kCrews && has_crew() && link().wait_for_members();
    }
    this->find_planes();
    if (kInShared && threadIdx.x < kMostAhead) this->ahead_steps()[threadIdx.x] = -1;
    if (!a_.encoding) open_stream();
    __syncthreads();
  }

  // Whether the present chunk can be coded: the base of its positions is there, and for a crew that of all of its step.
  CCM_DEVICE bool ready() {
    const bool crew = kCrews && *crewed();
    if (written_ || based_ || (crew && at_)) return true;
    const int32_t layer = this->planes()->dense_layer;
    if (layer < 0) return true;
    const Chunk chunk = crew ? whole_step(step_) : present();
    const Team all{0};
    if (!__syncthreads_and(look_for_base(all.thread(), all.threads(), chunk, layer))) return false;
    // The barrier handed on what some threads have acquired.
    know_base(all.thread(), all.threads(), chunk);
    return true;
  }

  // Announces the steps that are done, if that has not happened yet: the last warp, which has the fewest tiles of the
  // network. To be called where the coder waits; a step's network calls it otherwise.
  CCM_DEVICE void tell() {
    if (untold_ && threadIdx.x == blockDim.x - 32) {
      announce(a_.counters(image_, group_) + GroupProgress::kStepsDone, step_);
      if (ld_relaxed(a_.failed(image_))) *stop() = 1;
    }
    untold_ = false;
  }

  // Writes the list of the present chunk, or codes it. After the last one of all, or after a failure, the coder is no
  // longer active.
  CCM_DEVICE void advance() {
    const Chunk now = present();
    const bool decoding = written_, crew = kCrews && *crewed();
    if (crew && at_ == 0 && !decoding && threadIdx.x == 0) link().go(step_);
    bool beside = false;  // the next chunk's list is written now, if its base is there
    if (decoding) {
      const int32_t all = *listed(which_);
      decoded_ = now.last || a_.encoding ? all : all & ~(kSequenceLanes * sequences_ - 1);
      carried_ = all - decoded_;
      beside = writes_beside(now);
    }
    if (decoding && (a_.encoding || static_cast<int32_t>(threadIdx.x / 32) < sequences_)) {
      const bool fine =
          a_.encoding ? take_symbols(list(which_), decoded_) : decode_symbols(list(which_), decoded_, now);
      if (!fine) atomicExch(bad(), 1);
    } else {
      const Team team{decoding ? sequences_ : 0};
      const Chunk chunk = decoding ? behind(now) : now;
      if (decoding) this->publish_skipped(team, list(which_), *this->skipped(which_), enters_context(now));
      if (!decoding || (beside && (crew || find_base(team, chunk))))
        write_list(team, chunk, decoding ? at_ + now.count : at_);
      else if (crew)
        look_for_step(team);
      else if (kInShared && chunk.count) {
        const bool there = this->look_ahead(team, chunk.first, chunk.first + chunk.count, now.last);
        // What find_base() has said stays: by now the base may be there, but the list is not.
        if (!beside && team.thread() == 0) *base_is_there() = there;
      }
    }
    __syncthreads();
    if (!decoding) {
      written_ = true;
      which_ ^= 1;
      return;
    }
    const bool fine = !*bad() && !*stop();
    if (a_.encoding && threadIdx.x == 0) {
      *coded() += decoded_;
      a_.ends[static_cast<int64_t>(image_ * m_.groups + group_) * a_.h * a_.w + step_] = *coded();
    }
    const bool to_context = enters_context(now);
    const Publisher to = this->publisher(to_context);
    const SymbolList done = list(which_);
#pragma unroll 1
    for (int32_t k = threadIdx.x; fine && k < decoded_; k += blockDim.x) {
      const Symbol symbol = done.symbols[k];
      to.publish(done.targets[k], key_row(symbol.key), symbol.value);
    }
    // Otherwise those that do not decode have.
    if (a_.encoding || Team{sequences_}.warps() <= 0)
      this->publish_skipped(Team{0}, done, *this->skipped(which_), to_context);
    written_ = beside && (crew || *base_is_there());
    // Where other warps were there to look for them.
    const bool looked = kInShared && !a_.encoding && Team{sequences_}.warps() > 0 && behind(now).count;
    based_ = looked && !written_ && *base_is_there();
    which_ ^= written_;
    at_ += now.count;
    if (now.last || !fine) end_step(fine, to_context, crew);
    __syncthreads();
  }

 private:
  // Positions first .. first + count - 1 of the coding order; `last`: they end their step.
  struct Chunk {
    int32_t first, count;
    bool last;
  };
  CCM_DEVICE Chunk chunk_at(int32_t step, int32_t at) const {
    const int32_t first = order().first[step] + at, left = order().first[step + 1] - first;
    return {first, min(kChunk, left), left <= kChunk};
  }
  CCM_DEVICE Chunk present() const { return chunk_at(step_, at_); }
  CCM_DEVICE Chunk whole_step(int32_t step) const {
    return {order().first[step], order().first[step + 1] - order().first[step], true};
  }
  // The one behind it; of no positions: none.
  CCM_DEVICE Chunk behind(const Chunk& now) const {
    if (!now.last) return chunk_at(step_, at_ + now.count);
    return step_ + 1 < order().steps ? chunk_at(step_ + 1, 0) : Chunk{0, 0, true};
  }

  // Taps see the positions of earlier steps only; where they reach others of the same step, its latents enter the plane
  // when all of it is done.
  CCM_DEVICE bool enters_context(const Chunk& chunk) const {
    return !this->planes()->within_step || (chunk.last && at_ == 0);
  }

  CCM_DEVICE bool has_crew() const { return a_.crew.groups >> group_ & 1; }
  CCM_DEVICE CrewLink link() const { return {a_, image_, group_}; }

  // Whether the list of the chunk behind is written while the present one is decoded: there is room for it and a warp
  // for each tile of its sums of contexts (else only these are begun) unless others compute them, and no tap reads what
  // is being decoded.
  CCM_DEVICE bool writes_beside(const Chunk& now) const {
    if (!kInShared || a_.encoding || !this->two_lists()) return false;
    const int32_t warps = Team{sequences_}.warps();
    if (warps <= 0 ||
        (this->step_layers()->k_steps > 0 && this->step_layers()->m_tiles > warps && !(kCrews && *crewed())))
      return false;
    return now.last ? this->step_layers()->k_steps == 0 && step_ + 1 < order().steps : !this->planes()->within_step;
  }

  // Of one thread's positions of a chunk; the base is `layer`'s output.
  CCM_DEVICE bool look_for_base(int32_t thread, int32_t threads, const Chunk& chunk, int32_t layer) const {
    const GroupPlanes planes(a_, image_, group_);
    bool there = true;
#pragma unroll 1
    for (int32_t p = thread; p < chunk.count; p += threads) {
      const int32_t tile = tile_of(chunk.first + p);
      if (known() && known()[tile]) continue;
      if (ld_relaxed(planes.flag(layer, tile)))
        ld_acquire(planes.flag(layer, tile));
      else
        there = false;
    }
    return there;
  }
  CCM_DEVICE void know_base(int32_t thread, int32_t threads, const Chunk& chunk) const {
#pragma unroll 1
    for (int32_t p = thread; known() && p < chunk.count; p += threads)
      atomicExch(known() + tile_of(chunk.first + p), 1);
  }

  // The same by a team beside the decoders; all of it says the same. A chunk's positions are those of its first warp.
  CCM_DEVICE bool find_base(const Team& team, const Chunk& chunk) {
    static_assert(kChunk <= 32, "one warp looks for all");
    const int32_t layer = this->planes()->dense_layer;
    if (team.warp() == 0) {
      const bool there = layer < 0 || look_for_base(team.thread(), team.threads(), chunk, layer);
      const bool all = __all_sync(kWarp, there);
      if (team.thread() == 0) *base_is_there() = all;
    }
    team.sync();
    const bool found = *base_is_there();
    if (found && layer >= 0) know_base(team.thread(), team.threads(), chunk);
    return found;
  }

  // Beside the decoders of a step's last chunk: whether all bases of the step behind are there.
  CCM_DEVICE void look_for_step(const Team& team) {
    if (team.warp() != 0) return;
    const int32_t layer = this->planes()->dense_layer, lane = lane_here();
    bool all = step_ + 1 < order().steps;
    if (all && layer >= 0) {
      const Chunk chunk = whole_step(step_ + 1);
      all = __all_sync(kWarp, look_for_base(lane, 32, chunk, layer));
      __syncwarp();  // all have read what is written now
      if (all) know_base(lane, 32, chunk);
    }
    if (lane == 0) *base_is_there() = all;
  }

  // The other list is of the chunk from now on: symbols that the present one has left, and its own. The chunk begins
  // `at` positions behind its step's first.
  CCM_DEVICE void write_list(const Team& team, const Chunk& chunk, int32_t at) {
    const SymbolList from = list(which_), to = list(which_ ^ 1);
#pragma unroll 1
    for (int32_t k = team.thread(); k < carried_; k += team.threads()) {
      to.symbols[k] = from.symbols[decoded_ + k];
      to.modes[k] = from.modes[decoded_ + k];
      to.targets[k] = from.targets[decoded_ + k];
    }
    const auto plan = this->plan_list(team, chunk.count);
    this->store_positions(team, chunk.first, chunk.count);  // for the list
    if (kCrews && *crewed()) {
      tell();
      link().collect(team, step_, at / kChunk, this->planes()->depth, this->mean());
    } else {
      this->network(team, chunk.first, chunk.count, [this] { tell(); });
    }
    const auto [coded, skipped] = this->list_symbols(team, plan, to, carried_);
    if (team.thread() == 0) *listed(which_ ^ 1) = coded, *this->skipped(which_ ^ 1) = skipped;
  }

  // A step is done, or the image has failed.
  CCM_DEVICE void end_step(bool fine, bool to_context, bool crew) {
    const int32_t first = order().first[step_], count = order().first[step_ + 1] - first;
    for (int32_t at = 0; !to_context && at < count && fine; at += kChunk) {
      this->load_positions(Team{0}, first + at, min(kChunk, count - at));
      this->show_latents(min(kChunk, count - at));
      __syncthreads();
    }
    at_ = 0;
    ++step_;
    int32_t* const counters = a_.counters(image_, group_);  // computed here: the kernel is short of registers
    const int32_t steps = order().steps;
    if (fine && step_ < steps) {
      untold_ = step_ % kStepsPerNews == 0;
#if CCM_FAULT == 1
      tell();
#endif
      // Read by others behind the barrier that follows.
      if (kCrews && has_crew() && !crew && threadIdx.x == 0) *crewed() = link().complete();
      return;
    }
    // None of its members waits for another one that has left.
    if (crew)
      link().dismiss(step_ - 1, count, this->planes()->depth);
    else if (kCrews && has_crew() && threadIdx.x == 0)
      link().end();
    __syncthreads();
    if (threadIdx.x < 32) {
      Status status = fine ? kOk : kDamaged;
      for (int32_t q = 0; q < sequences_ && !a_.encoding; ++q) {
        const WarpDecoder decoder = *stream(q);
        const Status own = fine ? decoder.finish() : decoder.bad();
        if (q == 0 || status == kOk) status = own;
      }
      if (threadIdx.x == 0) {
        counters[GroupProgress::kStatus] = status;
        if (status != kOk) st_relaxed(a_.failed(image_), 1);
        // After a failure, too: later groups must not wait for what never comes; they meet the flag instead.
        announce(counters + GroupProgress::kStepsDone, steps);
      }
    }
    group_ = -1;
  }

  CCM_DEVICE void open_stream() {
    const int64_t* segment = a_.segments + static_cast<int64_t>(image_ * m_.groups + group_) * 3;
    const int64_t offset = segment[0], size = segment[1];
    const bool inside = offset >= 0 && size >= 0 && offset <= a_.size && size <= a_.size - offset;
    const bool valid = inside && valid_streams(segment[2]);
    const int64_t code = valid ? segment[2] : 1;
    sequences_ = sequences_of(code);
    for (int32_t q = threadIdx.x / 32; q < sequences_; q += blockDim.x / 32) {
      WarpDecoder decoder;
      decoder.open(a_.data + (valid ? offset : 0), valid ? size : 0, code, q, ring(q));
      decoder.begin(a_.h * a_.w);
      *stream(q) = decoder;
    }
  }

  // The first n symbols of the list, the chunk's and those before it, by a warp a sequence. False: damage.
  CCM_DEVICE bool decode_symbols(const SymbolList& list, int32_t n, const Chunk& chunk) {
    bool fine = true;
    const int32_t left = a_.h * a_.w - chunk.first - chunk.count;
#pragma unroll 1
    for (int32_t q = threadIdx.x / 32; q < sequences_; q += blockDim.x / 32) {
      WarpDecoder decoder = *stream(q);  // a copy in registers while it runs; in between others need them
      const int32_t own = symbols_of_sequence(n, sequences_, q);
      const int32_t at = q * kSequenceLanes;
      if (own && decoder.bad() == kOk)
        decoder.decode(tables(), list.symbols + at, list.modes + at, own, unit(), ring(q));
      if (chunk.last) decoder.end_step(own);  // those before were whole rounds
      if (chunk.last && left) decoder.retire(left, ring(q));
      fine &= decoder.bad() == kOk;
      *stream(q) = decoder;
    }
    return fine;
  }

  // Encoding: the n listed symbols as the caller gave them, and what they are coded as. False: one cannot be coded.
  CCM_DEVICE bool take_symbols(const SymbolList& list, int32_t n) {
    uint64_t* to = a_.coded + static_cast<int64_t>(image_) * a_.h * a_.w * m_.latent_channels +
                   static_cast<int64_t>(a_.h) * a_.w * d().first_channel + *coded();
    bool fine = true;
#pragma unroll 1
    for (int32_t k = threadIdx.x; k < n; k += blockDim.x) {
      const Target target = list.targets[k];
      const int64_t at = this->place_in_y(target.position, target.channel);
      int32_t symbol, v;
      if (m_.residual) {
        v = residual_symbol(static_cast<const int32_t*>(a_.given)[at], target.offset);
        symbol = residual_latent(v, target.offset);
      } else {
        symbol = static_cast<const int16_t*>(a_.given)[at];
        v = symbol - target.offset;
      }
      if (!symbol_fits(symbol)) fine = false;
      list.symbols[k].value = symbol;
      to[k] = static_cast<uint64_t>(key_row(list.symbols[k].key)) << 32 | static_cast<uint32_t>(v);
    }
    return fine;
  }

  int32_t step_ = 0, at_ = 0;  // at_: positions of the step that are done
  int32_t which_ = 0;          // the list of the present chunk
  bool written_ = false;       // that list is there
  // Of the list before: symbols that have been decoded, and those behind them, which did not fill a round of every
  // sequence: the next list begins with these.
  int32_t decoded_ = 0, carried_ = 0;
  bool based_ = false;     // the bases of the present chunk are there, of a crew's those of its step
  bool untold_ = false;    // steps are done that have not been announced
  int32_t sequences_ = 1;  // of the stream
};

}  // namespace ccm
