#include <algorithm>
#include <cstring>

#include "entropy/cuda/model_cuda.h"
#include "format/rans.h"
#include "model/rows.h"
#include "model/sections.h"

namespace ccm {
namespace {

int32_t ceil_div(int64_t a, int32_t b) { return static_cast<int32_t>((a + b - 1) / b); }

class DevicePacker {
 public:
  explicit DevicePacker(const PackedModel& m) : m_(m), out_(sizeof(DeviceModel)) {}

  std::vector<uint8_t> run() {
    DeviceModel d{};
    d.magic = kDeviceMagic;
    d.groups = m_.groups;
    d.least_version = m_.least_version();
    d.latent_channels = m_.latent_channels;
    d.hyper_channels = m_.hyper_channels;
    d.psi_channels = m_.psi_channels;
    d.plane_channels = m_.plane_channels;
    d.scale_codes = m_.scale_codes;
    d.residual = m_.residual;
    d.scaled_context = m_.scaled_context;
    d.hs_layers = m_.hs_layers;
    for (int g = 0; g < m_.groups; ++g) d.schedule[g] = m_.group[g].schedule;
    d.per_hyper_channel = reciprocal(static_cast<uint32_t>(m_.hyper_channels));
    if (m_.scaled_context) {
      d.context_mult = copy<int32_t>(m_.context_mult, m_.plane_channels);
      d.context_shift = copy<int32_t>(m_.context_shift, m_.plane_channels);
    }
    channels_of_z(d);
    d.skip_scale = -1;
    for (int i = 0; i < kNumScales; ++i)
      if (m_.scale_rows[i].first_row < m_.skip_rows) d.skip_scale = i;
    d.scale_table = copy<uint8_t>(m_.scale_table, m_.scale_codes);
    std::copy(m_.scale_rows, m_.scale_rows + kNumScales, d.scale_rows);
    d.y_rows = rows(m_.rows(m_.y_rows));
    d.z_rows = rows(m_.rows(m_.z_rows));
    for (int l = 0; l < m_.hs_layers; ++l) d.hs[l] = conv(m_.hs[l]);
    for (int g = 0; g < m_.groups; ++g) {
      d.group[g] = group(m_.group[g]);
      for (int32_t shift : d.group[g].shift) d.most_shift = std::max(d.most_shift, shift);
    }
    out_.reserve(16);  // the last section may be empty; its address is inside the block all the same
    d.bytes = out_.size();
    std::memcpy(out_.data(), &d, sizeof d);
    return out_.take();
  }

 private:
  void channels_of_z(DeviceModel& d) {
    const uint16_t* coded = m_.at<uint16_t>(m_.z_channels);
    const int16_t* fixed = m_.at<int16_t>(m_.z_values);
    const std::vector<int32_t> channels(coded, coded + m_.z_coded);
    std::vector<int32_t> values(fixed, fixed + m_.hyper_channels);
    for (int32_t c : channels) values[c] = kCodedChannel;
    d.z_coded = m_.z_coded;
    d.per_coded_channel = reciprocal(static_cast<uint32_t>(std::max(1, m_.z_coded)));
    d.z_channels = out_.put(channels);
    d.z_values = out_.put(values);
  }

  template <class T>
  int64_t copy(int64_t offset, size_t n) {
    return out_.put(std::vector<T>(m_.at<T>(offset), m_.at<T>(offset) + n));
  }

  // Of an own group's (no bias: the base) or a convolution's channels. Kernels compute the channels that fill up a
  // tile, too: a shift of 0 would be one by -1.
  template <class Desc>
  int64_t numbers(const Desc& c, const int32_t* bias, int32_t n) {
    std::vector<ChannelNumbers> v(n);
    for (int32_t k = 0; k < n; ++k)
      v[k] = {bias ? bias[k] : 0, m_.at<int32_t>(c.mult)[k], std::max(m_.at<int32_t>(c.shift)[k], 1),
              m_.at<int32_t>(c.below)[k]};
    return out_.put(v);
  }

  // [n / 16][k / 4][16][4] as packed for cuda_layout() -> [m_tiles][k_steps][lane][16]. `order`: which quad of k comes
  // in each place, -1: none.
  int64_t weights(int64_t from, int32_t m_tiles, int32_t quads, int32_t k_steps, const std::vector<int32_t>& order) {
    const int64_t at = out_.reserve(static_cast<size_t>(m_tiles) * k_steps * 512);
    const uint8_t* w = m_.at<uint8_t>(from);
    for (int32_t mt = 0; mt < m_tiles; ++mt)
      for (int32_t s = 0; s < k_steps; ++s)
        for (int32_t lane = 0; lane < 32; ++lane)
          for (int32_t part = 0; part < 4; ++part) {
            // Registers of the A fragment: rows lane / 4 and + 8 of quad lane % 4, then the same of quad + 4.
            const int32_t row = lane / 4 + (part & 1) * 8, q = order[s * 8 + lane % 4 + (part >> 1) * 4];
            if (q < 0) continue;  // zero
            std::memcpy(out_.data() + at + ((static_cast<int64_t>(mt) * k_steps + s) * 32 + lane) * 16 + part * 4,
                        w + ((static_cast<int64_t>(mt) * quads + q) * 16 + row) * 4, 4);
          }
    return at;
  }

  // `early`: taps whose products lie first, in whole products.
  DeviceConv product(int64_t from, int32_t n_pad, int32_t cin_pad, const std::vector<std::pair<int32_t, int32_t>>& taps,
                     const std::vector<bool>& early = {}) {
    DeviceConv d{};
    d.cin_pad = cin_pad;
    d.m_tiles = n_pad / kTileM;
    const int32_t quads = static_cast<int32_t>(taps.size()) * cin_pad / 4;
    const auto is_early = [&](int32_t q) { return !early.empty() && early[q * 4 / cin_pad]; };
    std::vector<int32_t> order;
    for (int32_t q = 0; q < quads; ++q)
      if (is_early(q)) order.push_back(q);
    d.early_steps = ceil_div(static_cast<int64_t>(order.size()), 8);
    order.resize(static_cast<size_t>(d.early_steps) * 8, -1);
    for (int32_t q = 0; q < quads; ++q)
      if (!is_early(q)) order.push_back(q);
    d.k_steps = ceil_div(static_cast<int64_t>(order.size()), 8);
    order.resize(static_cast<size_t>(d.k_steps) * 8, -1);
    d.weights = weights(from, d.m_tiles, quads, d.k_steps, order);
    std::vector<uint32_t> where(static_cast<size_t>(d.k_steps) * 8 + kMoreQuads, quad(0, 0, 0));
    for (size_t k = 0; k < order.size(); ++k) {
      if (order[k] < 0) continue;
      const auto [di, dj] = taps[order[k] * 4 / cin_pad];
      where[k] = quad(order[k] * 4 % cin_pad, di, dj);
    }
    d.quads = out_.put(where);
    return d;
  }

  DeviceConv conv(const ConvDesc& c) {
    std::vector<std::pair<int32_t, int32_t>> taps;
    for (int32_t t = 0; t < c.kernel * c.kernel; ++t)
      taps.emplace_back(t / c.kernel - c.kernel / 2, t % c.kernel - c.kernel / 2);
    DeviceConv d = product(c.weights, c.n_pad, c.cin_pad, taps);
    d.kernel = c.kernel;
    d.upsample = c.upsample;
    d.output = c.output;
    d.is_signed = c.is_signed;
    d.cout = c.cout;
    d.zero = c.zero;
    d.in_zero = c.is_signed ? 128 : c.in_zero;
    d.numbers = numbers(c, m_.at<int32_t>(c.bias), c.n_pad);
    return d;
  }

  // Whether what a tap reads is, somewhere, `lead` steps old.
  static bool reaches(const Schedule& s, int32_t di, int32_t dj, int32_t lead) {
    for (int32_t i = 0; i < s.ph; ++i)
      for (int32_t j = 0; j < s.pw; ++j)
        if (tap_lead(s, i, j, di, dj) == lead) return true;
    return false;
  }

  DeviceGroup group(const GroupDesc& g) {
    DeviceGroup d{};
    d.channels = g.channels;
    d.per_channel = reciprocal(static_cast<uint32_t>(g.channels));
    d.first_channel = g.first_channel;
    d.plane_channel = g.plane_channel;
    d.base_width = g.base_width;
    d.base_pad = g.base_pad;
    d.stack_layers = g.stack_layers;
    d.has_skip = g.has_skip;
    d.hidden_layers = g.hidden_layers;
    d.base_init = copy<int32_t>(g.base_init, g.base_pad);
    std::vector<std::pair<int32_t, int32_t>> taps;
    for (int32_t t = 0; t < g.taps; ++t) taps.emplace_back(g.tap_di[t], g.tap_dj[t]);
    std::vector<bool> early;
    // Early taps read what is older than a step, or of no step that is done: its byte then stands for zero.
    for (const auto& [di, dj] : taps) {
      early.push_back(!reaches(g.schedule, di, dj, 1));
      d.within_step |= reaches(g.schedule, di, dj, 0);
    }
    d.spatial = product(g.weights, g.base_pad, (g.channels + 3) / 4 * 4, taps, early);
    d.spatial.cout = g.base_width;
    d.spatial.output = g.f_output;
    d.spatial.zero = g.f_zero;
    d.spatial.in_zero = 128;
    d.spatial.numbers = numbers(g, nullptr, g.base_pad);
    d.hyper = conv(g.hyper);
    for (int32_t l = 0; l < g.stack_layers; ++l) d.stack[l] = conv(g.stack[l]);
    if (g.has_skip) d.skip = conv(g.skip);
    for (int32_t l = 0; l < g.hidden_layers; ++l) d.hidden[l] = conv(g.hidden[l]);
    if (g.f_output != kHead) d.head = conv(g.head);
    for (int32_t l = 1; l < g.stack_layers; ++l) d.shift[l] = d.shift[l - 1] + g.stack[l].kernel / 2;
    d.radius = std::max(g.stack_layers ? g.stack[0].kernel / 2 : 0, g.has_skip ? g.skip.kernel / 2 : 0);
    return d;
  }

  DeviceRows rows(const Rows& r) {
    std::vector<DeviceRow> out(r.count);
    const RowInfo& last = r.info[r.count - 1];
    std::vector<uint32_t> entries(r.entries, r.entries + last.first + last.count);
    for (uint32_t& e : entries) e = e << 16 | e >> 16;
    std::vector<RowWindow> windows(r.count);
    std::vector<RowNeighbours> neighbours;
    for (int32_t i = 0; i < r.count; ++i) {
      const RowInfo& info = r.info[i];
      const int32_t escape = info.count - 1 - info.window, mode = info.mode - info.window;
      const uint32_t* const window = entries.data() + info.first + info.window;
      RowWindow& w = windows[i];
      std::fill(w.entry, w.entry + kWindow, kNoEntry);
      for (int32_t k = 0; k < info.inside; ++k) w.entry[k] = window[k] - 1;  // no frequency is 0
      const uint32_t place = escape < info.inside ? static_cast<uint32_t>(escape) : kNoPlace;
      w.key = row_key(i, static_cast<uint32_t>(mode), place);
      w.mode = window[mode];
      w.lo_mode = info.lo + info.mode;
      w.outside = static_cast<uint32_t>(escape) << 16;
      if (info.inside < info.count) {
        RowNeighbours beside{};
        for (int32_t k = 0; k < kNeighbours; ++k) {
          const int32_t at = neighbour_place(k) + info.window;
          if (at >= 0 && at < info.count) beside.entry[k] = entries[info.first + at];
        }
        neighbours.push_back(beside);
        w.outside |= static_cast<uint32_t>(neighbours.size());
      }
      out[i] = {info.first, info.lo, info.count, info.window, {}};
    }
    constexpr uint32_t kParts = 1 << kPartBits, kSlots = 1 << (kProbBits - kPartBits);
    for (DeviceRow& row : out)
      for (uint32_t part = 0, e = row.first; part < kParts; ++part) {
        while (e + 1 < row.first + row.count && entries[e + 1] >> 16 <= part * kSlots) ++e;
        row.parts[part] = e;
      }
    DeviceRows d{};
    d.rows = out_.put(out);
    d.entries = out_.put(entries);
    static_assert(sizeof(RowWindow) % 16 == 0, "neighbours follow at once");
    d.windows = out_.put(windows);
    out_.put(neighbours);
    d.count = r.count;
    d.neighbour_count = static_cast<int32_t>(neighbours.size());
    return d;
  }

  const PackedModel& m_;
  Sections<16> out_;  // lanes read 16 bytes at a time
};

}  // namespace

const Layout& cuda_layout() {
  static const Layout layout{"cuda", kIsaCuda, kTileM, 4, 1};
  return layout;
}

std::vector<uint8_t> to_device(const PackedModel& m) { return DevicePacker(m).run(); }

}  // namespace ccm
