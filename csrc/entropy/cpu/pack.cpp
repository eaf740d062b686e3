#include "entropy/cpu/pack.h"

#include <algorithm>
#include <cstring>
#include <string>
#include <tuple>
#include <utility>

#include "base/little_endian.h"
#include "entropy/cpu/layer_pack.h"
#include "entropy/cpu/panels.h"
#include "format/fixed_point.h"

namespace ccm {
namespace {

constexpr int32_t kMaxScaleCodes = 65536;

class Packer : LayerPacker {
 public:
  // points: whether the kernels have products in the Winograd domain; parts: products of some taps of a context.
  Packer(const uint8_t* plan, size_t size, const Layout& layout, bool points, bool parts)
      : LayerPacker(plan, size, layout, points, sizeof(PackedModel)), size_(size), parts_(parts) {}

  std::vector<uint8_t> run() {
    // 3x3 kernels of words take ten bytes a weight, their weights at Winograd's points among them; others take less.
    out_.expect(sizeof(PackedModel) + size_ * (points_ ? 11 : k_.element_bytes + 1));
    PackedModel m{};
    m.magic = kPackedMagic;
    m.isa = k_.isa;
    if (std::memcmp(in_.bytes(4), "CCMP", 4)) bad_plan("wrong magic");
    version_ = in_.number();
    if (version_ < 1 || version_ > 3) bad_plan("unknown version");
    if (static_cast<uint32_t>(in_.number()) != size_) bad_plan("its length field does not match its length");
    m.latent_channels = in_.number(1, kMaxChannels, "M");
    m.hyper_channels = in_.number(1, kMaxChannels, "N");
    m.groups = in_.number(1, kMaxGroups, "G");
    int64_t sum = 0;
    for (int g = 0; g < m.groups; ++g) {
      GroupDesc& d = m.group[g];
      d.channels = in_.number(1, kMaxChannels, "a group's channels");
      d.first_channel = static_cast<int32_t>(sum);
      d.plane_channel = m.plane_channels;
      sum += d.channels;
      m.plane_channels += round_up(d.channels, 4);
    }
    if (sum != m.latent_channels) bad_plan("the groups do not add up to M");
    if (version_ >= 2) flags(m);
    z_channels(m);
    if (!m.own_schedules) schedule(m.schedule);
    for (int g = 0; g < m.groups; ++g)
      m.own_schedules ? schedule(m.group[g].schedule) : void(m.group[g].schedule = m.schedule);
    m.schedule = m.group[0].schedule;
    m.hs_layers = in_.number(1, kMaxLayers, "h_s layers");
    int32_t channels = m.hyper_channels, factor = 1, zero = kLatentZero;
    for (int i = 0; i < m.hs_layers; ++i) {
      conv(m.hs[i], i == 0 ? std::vector<int32_t>() : in_order(channels), channels, kRelu8, i == 0, zero);
      zero = m.hs[i].zero;
      channels = m.hs[i].cout / (m.hs[i].upsample * m.hs[i].upsample);
      factor *= m.hs[i].upsample;
    }
    if (factor != 4) bad_plan("h_s must upsample by 4 in all");
    m.psi_channels = channels;
    m.uniform_taps = 1;
    for (int g = 0; g < m.groups; ++g) group(m, g);
    m.scale_codes = in_.number(1, kMaxScaleCodes, "the scale table's length");
    const uint8_t* codes = in_.bytes(m.scale_codes);
    std::vector<uint8_t> table(codes, codes + m.scale_codes);
    if (*std::max_element(table.begin(), table.end()) >= kNumScales) bad_plan("a scale index above 63");
    m.scale_table = out_.put(table);
    const uint8_t* bits = in_.bytes(kNumScales);
    int32_t row = 0;
    for (int i = 0; i < kNumScales; ++i) {
      if (bits[i] > kMeanBits) bad_plan("more than 4 fraction bits");
      if (bits[i] && m.residual) bad_plan("fraction bits in a residual model");
      m.scale_rows[i] = {row, bits[i]};
      row += 1 << bits[i];
      if (i == skipped_) m.skip_rows = row;
    }
    std::vector<int32_t> choices;
    for (uint8_t scale : table)
      choices.push_back(m.scale_rows[scale].first_row << kScaleBits | m.scale_rows[scale].bits);
    m.scale_choices = out_.put(choices);
    m.y_rows = rows(row, "rows of y");
    m.z_rows = rows(m.hyper_channels, "rows of z");
    if (in_.left()) bad_plan("bytes left over");
    out_.reserve(64);  // vector loads of a window's tail may look past the last section
    std::vector<uint8_t> blob = out_.take();
    m.bytes = static_cast<int64_t>(blob.size());
    std::memcpy(blob.data(), &m, sizeof m);
    return blob;
  }

 private:
  void flags(PackedModel& m) {
    const int32_t flags = in_.number(0, version_ == 2 ? 3 : 31, "the flags");
    m.residual = flags & 1;
    m.scaled_context = flags >> 1 & 1;
    m.own_schedules = flags >> 4;
    if (m.scaled_context) scaled_context(m);
    if (flags & 4) {
      if (m.residual) bad_plan("skipped symbols in a residual model");
      skipped_ = in_.number(0, kNumScales - 2, "the last scale index that is skipped");
    }
    if (flags & 8) z_values_ = in_.numbers(m.hyper_channels);
  }

  void z_channels(PackedModel& m) {
    std::vector<uint16_t> coded;
    std::vector<int16_t> values(m.hyper_channels);
    for (int32_t c = 0; c < m.hyper_channels; ++c) {
      const int32_t v = z_values_.empty() ? kCodedChannel : z_values_[c];
      if (v < -32768 || v > 32767) bad_plan("a value of z that does not fit 16 bits");
      if (v == kCodedChannel)
        coded.push_back(static_cast<uint16_t>(c));
      else
        values[c] = static_cast<int16_t>(v);
    }
    m.z_coded = static_cast<int32_t>(coded.size());
    m.z_channels = out_.put(coded);
    m.z_values = out_.put(values);
  }

  void scaled_context(PackedModel& m) {
    const std::vector<int32_t> mult = multipliers(m.latent_channels), shift = shifts(m.latent_channels);
    std::vector<int32_t> plane_mult(m.plane_channels, 0), plane_shift(m.plane_channels, 32);
    for (int g = 0; g < m.groups; ++g) {
      const GroupDesc& d = m.group[g];
      std::copy_n(&mult[d.first_channel], d.channels, &plane_mult[d.plane_channel]);
      std::copy_n(&shift[d.first_channel], d.channels, &plane_shift[d.plane_channel]);
    }
    m.context_mult = out_.put(plane_mult);
    m.context_shift = out_.put(plane_shift);
  }

  void schedule(Schedule& s) {
    s.row_step = in_.number(0, 255, "row_step");
    s.col_step = in_.number(0, 255, "col_step");
    s.ph = in_.number(1, kMaxPattern, "the pattern's height");
    s.pw = in_.number(1, kMaxPattern, "the pattern's width");
    for (int i = 0; i < s.ph * s.pw; ++i) s.pattern[i] = in_.number(0, 255, "a pattern entry");
  }

  // The part of a context that a tap belongs to.
  static int32_t part_of(const Schedule& s, int32_t di, int32_t dj) {
    int32_t lead = INT32_MAX, part = 0;
    for (int32_t a = 0; a < s.ph; ++a)
      for (int32_t b = 0; b < s.pw; ++b)
        if (tap_available(s, a, b, di, dj)) lead = std::min(lead, tap_lead(s, a, b, di, dj));
    while (kLead[part] > lead) ++part;
    return part;
  }

  // Brings a context's taps into the order of its parts; returns its weights [base_width][taps][channels] in it.
  static std::vector<int8_t> order_taps(GroupDesc& d, const int8_t* w) {
    std::vector<std::tuple<int32_t, int32_t, int32_t, int32_t>> taps;  // part, number, offset
    for (int32_t t = 0; t < d.taps; ++t)
      taps.emplace_back(part_of(d.schedule, d.tap_di[t], d.tap_dj[t]), t, d.tap_di[t], d.tap_dj[t]);
    std::sort(taps.begin(), taps.end());
    std::vector<int8_t> ordered;
    ordered.reserve(static_cast<size_t>(d.base_width) * d.taps * d.channels);
    for (int32_t n = 0; n < d.base_width; ++n)
      for (const auto& tap : taps) {
        const int8_t* from = w + (static_cast<int64_t>(n) * d.taps + std::get<1>(tap)) * d.channels;
        ordered.insert(ordered.end(), from, from + d.channels);
      }
    for (int32_t t = 0; t < d.taps; ++t) {
      ++d.part_taps[std::get<0>(taps[t])];
      std::tie(std::ignore, std::ignore, d.tap_di[t], d.tap_dj[t]) = taps[t];
    }
    return ordered;
  }

  // The weights of a context, part by part.
  void context_weights(GroupDesc& d, const int8_t* w) {
    const std::vector<int32_t> source = own_source(d);
    const size_t tap = source.size() * d.base_pad * k_.element_bytes;
    d.weights = out_.reserve(d.taps * tap);
    uint8_t* to = out_.data() + d.weights;
    for (int32_t p = 0, first = 0; p < kParts; first += d.part_taps[p++]) {
      pack_weights(k_, w + static_cast<int64_t>(first) * d.channels, d.base_width, d.part_taps[p], d.channels,
                   d.base_pad, source, d.taps, to);
      to += d.part_taps[p] * tap;
    }
  }

  static std::vector<int32_t> own_source(const GroupDesc& d) {
    return sources(in_order(d.channels), round_up(d.channels, 4));
  }

  // Offset of a group's masked context in the Winograd domain, as a kernel of 3 rows and 5 columns; 0 without one.
  int64_t context_points(const GroupDesc& d, const int8_t* w, const std::vector<int64_t>& sizes) {
    constexpr int32_t kRows = 3, kColumns = 5, kLeastTaps = 9;  // the points take 4.5 products a sum
    if (d.taps < kLeastTaps) return 0;
    std::vector<int8_t> window(static_cast<size_t>(d.base_width) * kRows * kColumns * d.channels);
    for (int32_t t = 0; t < d.taps; ++t) {
      const int32_t i = d.tap_di[t] + 2, j = d.tap_dj[t] + 2;
      if (i < 0 || i >= kRows || j < 0 || j >= kColumns) return 0;
      for (int32_t n = 0; n < d.base_width; ++n)
        std::copy_n(w + (static_cast<int64_t>(n) * d.taps + t) * d.channels, d.channels,
                    &window[(static_cast<int64_t>(n) * kRows * kColumns + i * kColumns + j) * d.channels]);
    }
    return points(window.data(), d.base_width, kRows, kColumns, d.channels, d.base_pad, own_source(d), sizes,
                  kContextLimit);
  }

  void group(PackedModel& m, int index) {
    GroupDesc& d = m.group[index];
    d.taps = in_.number(0, kMaxTaps, "taps");
    d.uniform_taps = 1;
    for (int t = 0; t < d.taps; ++t) {
      d.tap_di[t] = in_.number(-kBorder, kBorder, "a tap");
      d.tap_dj[t] = in_.number(-kBorder, kBorder, "a tap");
      if (t > 0 && std::pair(d.tap_di[t], d.tap_dj[t]) <= std::pair(d.tap_di[t - 1], d.tap_dj[t - 1]))
        bad_plan("taps that are not in raster order");
      bool any = false;
      for (int a = 0; a < d.schedule.ph; ++a)
        for (int b = 0; b < d.schedule.pw; ++b) {
          const bool ok = tap_available(d.schedule, a, b, d.tap_di[t], d.tap_dj[t]);
          any |= ok;
          if (!ok) d.uniform_taps = m.uniform_taps = 0;
        }
      if (!any) bad_plan("a tap that the schedule never decodes in time");
    }
    d.base_width = in_.number(1, kMaxChannels, "the width of the base");
    d.base_pad = round_up(d.base_width, k_.n_block);
    d.f_output = version_ >= 2 ? in_.number(0, 3, "the output code of a context") : kRelu8;
    const bool direct = d.f_output == kHead;
    if (!direct && !may_be(d.f_output, kRelu8)) bad_plan("an output code that does not fit the context's place");
    if (direct && d.base_width != 2 * d.channels) bad_plan("a direct head of the wrong width");
    const size_t per = static_cast<size_t>(d.taps) * d.channels;
    const auto* w = reinterpret_cast<const int8_t*>(in_.bytes(per * d.base_width));
    std::vector<int8_t> ordered;
    if (parts_) {
      ordered = order_taps(d, w);
      w = ordered.data();
    } else {
      d.part_taps[kParts - 1] = d.taps;
    }
    context_weights(d, w);
    const Factors f = factors(d.base_width, d.base_pad, d.f_output, d.mult, d.shift, d.below, d.f_zero);
    const Sums sums(w, d.base_width, per);
    std::vector<int32_t> init(d.base_pad, 0);
    for (int32_t n = 0; n < d.base_width; ++n) init[n] = static_cast<int32_t>(byte_bias(sums.plain[n], kLatentZero));
    d.base_init = out_.put(init);
    d.points = context_points(d, w, sums.absolute);

    std::vector<int64_t> total = conv(d.hyper, {}, m.psi_channels, kAccumulate, false, psi_zero(m));
    check_width(d.hyper, d.base_width);
    std::vector<int32_t> where;
    for (int g = 0; g < index; ++g)
      for (int c = 0; c < m.group[g].channels; ++c) where.push_back(m.group[g].plane_channel + c);
    d.stack_layers = in_.number(0, kMaxLayers, "stack layers");
    if (index == 0 && d.stack_layers) bad_plan("a cross-channel stack in the first group");
    for (int i = 0; i < d.stack_layers; ++i) {
      const bool last = i + 1 == d.stack_layers;
      const int32_t cin = i == 0 ? d.first_channel : d.stack[i - 1].cout;
      const int32_t zero = i == 0 ? kLatentZero : d.stack[i - 1].zero;
      const auto limits =
          conv(d.stack[i], i == 0 ? where : in_order(cin), cin, last ? kAccumulate : kRelu8, i == 0, zero);
      if (d.stack[i].upsample != 1) bad_plan("upsampling inside a stack");
      if (last) add(total, limits, d.stack[i], d.base_width);
    }
    d.has_skip = in_.number(0, 1, "the skip flag");
    if (index == 0 && d.has_skip) bad_plan("a skip path in the first group");
    if (d.has_skip)
      add(total, conv(d.skip, where, d.first_channel, kAccumulate, true, kLatentZero), d.skip, d.base_width);
    for (int32_t n = 0; n < d.base_width; ++n) bound(sums.absolute[n], kContextLimit, total[n], f, n);
    if (direct) return;

    d.hidden_layers = in_.number(0, kMaxLayers, "hidden layers");
    int32_t width = d.base_width, zero = d.f_zero;
    for (int i = 0; i < d.hidden_layers; ++i) {
      conv(d.hidden[i], {}, width, kRelu8, false, zero);
      if (d.hidden[i].kernel != 1 || d.hidden[i].upsample != 1) bad_plan("a hidden layer that is not 1x1");
      width = d.hidden[i].cout;
      zero = d.hidden[i].zero;
    }
    conv(d.head, {}, width, kHead, false, zero);
    if (d.head.kernel != 1 || d.head.upsample != 1) bad_plan("a head that is not 1x1");
    if (d.head.cout != 2 * d.channels) bad_plan("a head of the wrong width");
  }

  static int32_t psi_zero(const PackedModel& m) { return m.hs[m.hs_layers - 1].zero; }

  static void check_width(const ConvDesc& d, int32_t width) {
    if (d.cout != width || d.upsample != 1) bad_plan("a part of the base has the wrong width");
  }

  static void add(std::vector<int64_t>& total, const std::vector<int64_t>& part, const ConvDesc& d, int32_t width) {
    check_width(d, width);
    for (int32_t n = 0; n < width; ++n) total[n] += part[n];
  }

  PackedRows rows(int32_t expected, const char* what) {
    const int32_t count = in_.number(1, kMaxRowEntries, what);
    if (count != expected) bad_plan(std::string("wrong number of ") + what);
    const std::vector<int32_t> lo = in_.numbers(count), n = in_.numbers(count);
    const int32_t total = in_.number(2, INT32_MAX / 4, "the length of the tables");
    const uint8_t* values = in_.bytes(static_cast<size_t>(total) * 2);
    std::vector<uint16_t> cdf(total);
    load_all(values, cdf.size(), cdf.data(), load_u16);
    const OwnedRows rows = build_rows(lo, n, cdf);
    return {out_.put(rows.info),
            out_.put(rows.find),
            out_.put(rows.entries),
            out_.put(rows.below),
            out_.put(rows.buckets),
            count,
            0};
  }

  const size_t size_;
  const bool parts_;
  int32_t skipped_ = -1;           // the last scale index of symbols that are not coded
  std::vector<int32_t> z_values_;  // of all channels, if any is not coded
};

}  // namespace

std::vector<uint8_t> pack_plan(const uint8_t* plan, size_t size, const Kernels& kernels) {
  return Packer(plan, size, kernels, kernels.to_points, kernels.add).run();
}

std::vector<uint8_t> pack_plan(const uint8_t* plan, size_t size, const Layout& layout) {
  return Packer(plan, size, layout, false, false).run();
}

const PackedModel& open_packed(const void* data, size_t size) {
  const auto& m = *static_cast<const PackedModel*>(data);
  if (size < sizeof(PackedModel) || m.magic != kPackedMagic || m.bytes != static_cast<int64_t>(size))
    throw PlanError("not a packed model: pass the result of pack_plan");
  if (!kernels_for(static_cast<Isa>(m.isa)))
    throw PlanError("this model was packed for an instruction set that this machine lacks: pack the plan again here");
  return m;
}

}  // namespace ccm
