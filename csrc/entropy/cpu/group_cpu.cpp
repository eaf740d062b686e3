#include "entropy/cpu/group_cpu.h"

#include <algorithm>
#include <numeric>

namespace ccm {

void put_y(const PackedModel& m, const GroupDesc& d, Plane& plane, int32_t i, int32_t j, const int16_t* values) {
  if (m.scaled_context)
    plane.put_scaled(i, j, d.plane_channel, values, d.channels, m.at<int32_t>(m.context_mult) + d.plane_channel,
                     m.at<int32_t>(m.context_shift) + d.plane_channel);
  else
    plane.put_latents(i, j, d.plane_channel, values, d.channels);
}

Group::Group(const PackedModel& m, const Kernels& k, int32_t index, int32_t h, int32_t w)
    : m_(m), k_(k), d_(m.group[index]), h_(h), w_(w) {
  for (int32_t s = 0; s + 1 < d_.stack_layers; ++s)
    features_.emplace_back(k, h, w, d_.stack[s + 1].cin_pad, d_.stack[s].zero, true);
  claimed_.assign(features_.size() + 1, 0);
  done_ = claimed_;
  ready_.assign(claimed_.size(), std::vector<uint8_t>(h));
}

namespace {

// Rows that a layer may be ahead of what the next one is allowed: that needs kBorder, and this one may stop `least` - 1
// rows early, four at most.
constexpr int32_t kAhead = kBorder + 4;

// Output rows that `rows` complete input rows allow.
int32_t reach(int32_t rows, int32_t h, const ConvDesc& d) { return rows >= h ? h : std::max(0, rows - d.kernel / 2); }

}  // namespace

bool Group::claim_dense(int32_t earlier_rows, int32_t chunk, int32_t least, int32_t end, DenseTask& task) {
  const int32_t last = static_cast<int32_t>(claimed_.size()) - 1;
  for (int32_t l = last; l >= 0; --l) {
    int32_t limit = l > 0 ? done_[l - 1] : earlier_rows;
    if (l < d_.stack_layers) limit = reach(limit, h_, d_.stack[l]);
    if (l == last && d_.has_skip) limit = std::min(limit, reach(earlier_rows, h_, d_.skip));
    limit = std::min(limit, end + (last - l) * kAhead);
    const int32_t rows = limit - claimed_[l];
    if (rows <= 0 || (rows < least && limit < h_)) continue;
    task = {l, claimed_[l], std::min(limit, claimed_[l] + chunk)};
    claimed_[l] = task.last;
    // Here and not in the constructor, so that a group takes its memory when its turn comes, and row by row.
    if (l == last && !base_) base_.reset(new int32_t[base_bytes(h_) / sizeof(int32_t)]);
    if (l < last) features_[l].clear_to(task.last + kBorder);
    return true;
  }
  return false;
}

void Group::run_dense(const DenseTask& task, const Plane& context, const uint8_t* psi) {
  const Plane& in = task.layer == 0 ? context : features_[task.layer - 1];
  if (task.layer < static_cast<int32_t>(features_.size())) {
    conv_byte_rows(m_, k_, d_.stack[task.layer], in, task.first, task.last, w_, features_[task.layer]);
    return;
  }
  hyper_rows(psi, task.first, task.last);
  if (d_.stack_layers) conv_accumulate_rows(m_, k_, d_.stack[task.layer], in, task.first, task.last, w_, base_.get());
  if (d_.has_skip) conv_accumulate_rows(m_, k_, d_.skip, context, task.first, task.last, w_, base_.get());
}

void Group::complete_dense(const DenseTask& task) {
  std::fill(ready_[task.layer].begin() + task.first, ready_[task.layer].begin() + task.last, uint8_t{1});
  int32_t& done = done_[task.layer];
  while (done < h_ && ready_[task.layer][done]) ++done;
}

void Group::all_dense(const Plane& context, const uint8_t* psi) {
  for (DenseTask task; claim_dense(h_, h_, h_, h_, task);) {
    run_dense(task, context, psi);
    complete_dense(task);
    give_back(drop_features(task.layer));
  }
}

void Group::all_own(const Plane& context) {
  if (!d_.points) return;
  add_context(m_, k_, d_, context, h_, w_, base_.get());
  own_added_ = true;
}

void Group::hyper_rows(const uint8_t* psi, int32_t first, int32_t last) {
  const int32_t* init = m_.at<int32_t>(d_.base_init);
  // psi comes without a border and as bytes: a strip with room for the kernel's halo makes a plane of it.
  const int32_t r = d_.hyper.kernel / 2, channels = m_.psi_channels;
  constexpr int32_t kStrip = 8;
  const bool all_written = r == 0 && d_.hyper.cin_pad == channels;  // all that is read: nothing has to be cleared
  for (int32_t top = first; top < last; top += kStrip) {
    const int32_t bottom = std::min(top + kStrip, last);
    Plane strip(k_, bottom - top + 2 * r, w_, d_.hyper.cin_pad, d_.hyper.in_zero, all_written);
    for (int32_t i = std::max(0, top - r); i < std::min(h_, bottom + r); ++i)
      for (int32_t j = 0; j < w_; ++j)
        strip.put_bytes(i - top + r, j, psi + (static_cast<int64_t>(i) * w_ + j) * channels, channels);
    int32_t* base = base_.get() + static_cast<int64_t>(top) * w_ * d_.base_pad;
    for (int64_t p = 0; p < static_cast<int64_t>(bottom - top) * w_; ++p)
      std::copy(init, init + d_.base_pad, base + p * d_.base_pad);
    // Row r of the strip is row `top` of the plane.
    conv_accumulate_rows(m_, k_, d_.hyper, strip, r, r + bottom - top, w_,
                         base - static_cast<int64_t>(r) * w_ * d_.base_pad);
  }
}

int32_t Group::claim_part(const StepOrder& order, int32_t s, int32_t end, int32_t part) {
  const int32_t begin = order.number[s];
  if (!d_.part_taps[part] || begin < part_until_[part]) return s;
  int32_t last = s + 1;
  while (last < end && order.number[last] < begin + kLead[part]) ++last;
  part_until_[part] = order.number[last - 1] + 1;
  return last;
}

Group::Window Group::window(const Plane& context) const {
  Window w;
  for (int32_t t = 0; t < d_.taps; ++t) w.offset[t] = context.offset(d_.tap_di[t], d_.tap_dj[t]);
  for (int32_t part = 0, t = 0; part < kParts; t += d_.part_taps[part++]) w.first[part] = t;
  return w;
}

const uint8_t* Group::context_weights(int32_t tap) const {
  return m_.at<uint8_t>(d_.weights) + static_cast<int64_t>(tap) * context_depth() * d_.base_pad * k_.element_bytes;
}

void Group::add_part(const Plane& context, const int32_t* row, const int32_t* col, int32_t count, int32_t part) const {
  const Window window = this->window(context);
  const int32_t tap = window.first[part];
  for (int32_t first = 0; first < count; first += k_.rows_at_once) {
    const int32_t rows = std::min(k_.rows_at_once, count - first);
    const void* a[kMostRows];
    int32_t* sums[kMostRows];
    for (int32_t p = 0; p < rows; ++p) {
      a[p] = context.at(row[first + p], col[first + p], d_.plane_channel);
      sums[p] = base_at(row[first + p], col[first + p]);
    }
    k_.add({a, window.offset + tap, context_weights(tap), nullptr, nullptr, 0, rows, d_.part_taps[part],
            context_depth(), d_.base_pad},
           sums);
  }
}

void Group::context_sums(const Plane& context, const int32_t* row, const int32_t* col, int32_t count,
                         int32_t first_part, int32_t* acc) const {
  const int32_t pad = d_.base_pad;
  const void* a[kMostRows];
  const int32_t* inits[kMostRows];
  for (int32_t p = 0; p < count; ++p) {
    a[p] = context.at(row[p], col[p], d_.plane_channel);
    inits[p] = base_at(row[p], col[p]);
  }
  const Window window = this->window(context);
  bool summed = false;
  for (int32_t part = first_part; part < kParts && !own_added_; ++part) {
    if (!d_.part_taps[part]) continue;
    const int32_t tap = window.first[part];
    k_.gemm({a, window.offset + tap, context_weights(tap), inits, acc, pad, count, d_.part_taps[part], context_depth(),
             pad});
    for (int32_t p = 0; p < count; ++p) inits[p] = acc + static_cast<int64_t>(p) * pad;
    summed = true;
  }
  if (summed) return;
  for (int32_t p = 0; p < count; ++p) std::copy(inits[p], inits[p] + pad, acc + static_cast<int64_t>(p) * pad);
}

void Group::tile(const Plane& context, const int32_t* row, const int32_t* col, int32_t count, int32_t first_part,
                 StepScratch& scratch, uint16_t* out_rows, int16_t* out_offsets) const {
  const int32_t element = k_.element_bytes;
  const int32_t* inits[kMostRows];
  const void* a[kMostRows];
  int32_t widest = d_.base_pad;
  for (int32_t l = 0; l < d_.hidden_layers; ++l) widest = std::max(widest, d_.hidden[l].n_pad);
  const auto rows = static_cast<size_t>(k_.rows_at_once);
  scratch.acc.resize(std::max(scratch.acc.size(), rows * std::max(widest, d_.head.n_pad)));
  for (auto& h : scratch.hidden) h.resize(rows * widest * element);
  int32_t* acc = scratch.acc.data();

  context_sums(context, row, col, count, first_part, acc);
  const int32_t* mult = m_.at<int32_t>(d_.mult);
  const int32_t* shift = m_.at<int32_t>(d_.shift);
  const int32_t pad = d_.base_pad;
  int from = 0;
  const RequantizeArgs pre{acc, pad, mult, shift, widest, count, pad};
  if (d_.f_output == kHead) {
    k_.rescale({acc, pad, mult, shift, pad, count, pad}, acc);
    return choose(acc, pad, count, out_rows, out_offsets);
  }
  bytes(pre, d_.f_output, d_.below, d_.f_zero, scratch.hidden[0].data());

  // 1x1 layers, then the head.
  const int32_t zero = 0;
  for (int32_t l = 0; l <= d_.hidden_layers; ++l) {
    const ConvDesc& c = l < d_.hidden_layers ? d_.hidden[l] : d_.head;
    for (int32_t p = 0; p < count; ++p) {
      a[p] = scratch.hidden[from].data() + static_cast<int64_t>(p) * widest * element;
      inits[p] = m_.at<int32_t>(c.bias);
    }
    k_.gemm({a, &zero, m_.at<uint8_t>(c.weights), inits, acc, c.n_pad, count, 1, c.cin_pad, c.n_pad});
    from ^= 1;
    const RequantizeArgs block{acc, c.n_pad, m_.at<int32_t>(c.mult), m_.at<int32_t>(c.shift), widest, count, c.n_pad};
    if (l < d_.hidden_layers) bytes(block, c.output, c.below, c.zero, scratch.hidden[from].data());
  }
  k_.rescale({acc, d_.head.n_pad, m_.at<int32_t>(d_.head.mult), m_.at<int32_t>(d_.head.shift), d_.head.n_pad, count,
              d_.head.n_pad},
             acc);
  choose(acc, d_.head.n_pad, count, out_rows, out_offsets);
}

void Group::bytes(const RequantizeArgs& block, int32_t output, int64_t below, int32_t zero, void* out) const {
  if (output == kLeaky8)
    k_.leaky8(block, m_.at<int32_t>(below), zero, out);
  else
    k_.relu8(block, out);
}

void Group::choose(const int32_t* heads, int32_t pad, int32_t count, uint16_t* rows, int16_t* offsets) const {
  k_.choose({heads, pad, m_.at<int32_t>(m_.scale_choices), m_.scale_codes - 1, d_.channels, count, m_.residual != 0,
             rows, offsets});
}

void Group::parameters(const Plane& context, const int32_t* row, const int32_t* col, int32_t count, int32_t first_part,
                       StepScratch& scratch, uint16_t* out_rows, int16_t* out_offsets) const {
  for (int32_t p = 0; p < count; p += k_.rows_at_once)
    tile(context, row + p, col + p, std::min(k_.rows_at_once, count - p), first_part, scratch,
         out_rows + static_cast<int64_t>(p) * d_.channels, out_offsets + static_cast<int64_t>(p) * d_.channels);
}

}  // namespace ccm
