#include "entropy/cpu/pack.h"

#include <algorithm>
#include <cstring>
#include <numeric>
#include <string>
#include <tuple>
#include <utility>

#include "base/little_endian.h"
#include "entropy/cpu/winograd_int.h"
#include "format/fixed_point.h"
#include "model/sections.h"

namespace ccm {
namespace {

constexpr int32_t kMaxChannels = 4096;
constexpr int32_t kMaxScaleCodes = 65536;
constexpr int64_t kInt32Max = 2147483647;

[[noreturn]] void fail(const std::string& what) { throw PlanError("bad entropy model (plan): " + what); }

int32_t round_up(int32_t v, int32_t to) { return (v + to - 1) / to * to; }

class Reader {
 public:
  Reader(const uint8_t* data, size_t size) : p_(data), left_(size) {}

  const uint8_t* bytes(size_t n) {
    const size_t padded = (n + 3) / 4 * 4;
    if (padded > left_ || padded < n) fail("it ends too early");
    const uint8_t* at = p_;
    for (size_t i = n; i < padded; ++i)
      if (at[i]) fail("padding that is not zero");
    p_ += padded;
    left_ -= padded;
    return at;
  }
  int32_t number() { return load_i32(bytes(4)); }
  int32_t number(int32_t lo, int32_t hi, const char* what) {
    const int32_t v = number();
    if (v < lo || v > hi)
      fail(std::string(what) + " is " + std::to_string(v) + ", outside " + std::to_string(lo) + ".." +
           std::to_string(hi));
    return v;
  }
  std::vector<int32_t> numbers(size_t n) {
    const uint8_t* at = bytes(n * 4);
    std::vector<int32_t> v(n);
    load_all(at, n, v.data(), load_i32);
    return v;
  }
  size_t left() const { return left_; }

 private:
  const uint8_t* p_;
  size_t left_;
};

// Weights [out][of_taps][in] (int8), of which `taps` are taken -> panels of n_block columns; element (tap, k) of a
// column lies k_block apart. `source`: the input channel of each of the in_pad channels of the padded plane, -1 where
// there is none.
template <class Element>
void pack_weights(const Layout& layout, const int8_t* w, int32_t out, int32_t taps, int32_t in, int32_t n_pad,
                  const std::vector<int32_t>& source, int32_t of_taps, Element* to) {
  const int32_t kb = layout.k_block, nb = layout.n_block, in_pad = static_cast<int32_t>(source.size());
  const int64_t next = static_cast<int64_t>(of_taps) * in;  // from column to column
  for (int32_t first = 0; first < n_pad; first += nb)
    for (int32_t t = 0; t < taps; ++t)
      for (int32_t k = 0; k < in_pad; k += kb, to += nb * kb)
        for (int32_t e = 0; e < kb; ++e) {
          if (source[k + e] < 0) continue;
          const int8_t* from = w + first * next + static_cast<int64_t>(t) * in + source[k + e];
          const int32_t columns = std::min(nb, out - first);
          for (int32_t n = 0; n < columns; ++n) to[n * kb + e] = from[n * next];
        }
}

void pack_weights(const Layout& layout, const int8_t* w, int32_t out, int32_t taps, int32_t in, int32_t n_pad,
                  const std::vector<int32_t>& source, int32_t of_taps, uint8_t* to) {
  if (layout.element_bytes == 2)
    pack_weights(layout, w, out, taps, in, n_pad, source, of_taps, reinterpret_cast<int16_t*>(to));
  else
    pack_weights(layout, w, out, taps, in, n_pad, source, of_taps, reinterpret_cast<int8_t*>(to));
}

std::vector<int32_t> in_order(int32_t n) {
  std::vector<int32_t> v(n);
  std::iota(v.begin(), v.end(), 0);
  return v;
}

// The input channel of each channel of a padded plane, from the places of the channels in it.
std::vector<int32_t> sources(const std::vector<int32_t>& where, int32_t in_pad) {
  std::vector<int32_t> v(in_pad, -1);
  for (size_t c = 0; c < where.size(); ++c) v[where[c]] = static_cast<int32_t>(c);
  return v;
}

class Packer {
 public:
  // points: whether the kernels have products in the Winograd domain; parts: products of some taps of a context.
  Packer(const uint8_t* plan, size_t size, const Layout& layout, bool points, bool parts)
      : in_(plan, size), size_(size), k_(layout), points_(points), parts_(parts), out_(sizeof(PackedModel)) {}

  std::vector<uint8_t> run() {
    // 3x3 kernels of words take ten bytes a weight, their weights at Winograd's points among them; others take less.
    out_.expect(sizeof(PackedModel) + size_ * (points_ ? 11 : k_.element_bytes + 1));
    PackedModel m{};
    m.magic = kPackedMagic;
    m.isa = k_.isa;
    if (std::memcmp(in_.bytes(4), "CCMP", 4)) fail("wrong magic");
    version_ = in_.number();
    if (version_ < 1 || version_ > 3) fail("unknown version");
    if (static_cast<uint32_t>(in_.number()) != size_) fail("its length field does not match its length");
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
    if (sum != m.latent_channels) fail("the groups do not add up to M");
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
    if (factor != 4) fail("h_s must upsample by 4 in all");
    m.psi_channels = channels;
    m.uniform_taps = 1;
    for (int g = 0; g < m.groups; ++g) group(m, g);
    m.scale_codes = in_.number(1, kMaxScaleCodes, "the scale table's length");
    const uint8_t* codes = in_.bytes(m.scale_codes);
    std::vector<uint8_t> table(codes, codes + m.scale_codes);
    if (*std::max_element(table.begin(), table.end()) >= kNumScales) fail("a scale index above 63");
    m.scale_table = out_.put(table);
    const uint8_t* bits = in_.bytes(kNumScales);
    int32_t row = 0;
    for (int i = 0; i < kNumScales; ++i) {
      if (bits[i] > kMeanBits) fail("more than 4 fraction bits");
      if (bits[i] && m.residual) fail("fraction bits in a residual model");
      m.scale_rows[i] = {row, bits[i]};
      row += 1 << bits[i];
      if (i == skipped_) m.skip_rows = row;
    }
    m.y_rows = rows(row, "rows of y");
    m.z_rows = rows(m.hyper_channels, "rows of z");
    if (in_.left()) fail("bytes left over");
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
      if (m.residual) fail("skipped symbols in a residual model");
      skipped_ = in_.number(0, kNumScales - 2, "the last scale index that is skipped");
    }
    if (flags & 8) z_values_ = in_.numbers(m.hyper_channels);
  }

  void z_channels(PackedModel& m) {
    std::vector<uint16_t> coded;
    std::vector<int16_t> values(m.hyper_channels);
    for (int32_t c = 0; c < m.hyper_channels; ++c) {
      const int32_t v = z_values_.empty() ? kCodedChannel : z_values_[c];
      if (v < -32768 || v > 32767) fail("a value of z that does not fit 16 bits");
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

  int64_t weights(const int8_t* w, int32_t out, int32_t taps, int32_t in, int32_t n_pad,
                  const std::vector<int32_t>& source) {
    const int64_t at = out_.reserve(static_cast<size_t>(taps) * source.size() * n_pad * k_.element_bytes);
    pack_weights(k_, w, out, taps, in, n_pad, source, taps, out_.data() + at);
    return at;
  }

  // Offset of the weights in the Winograd domain; 0 if their 26-bit bound fails or these kernels have no such path.
  // sizes: the sum of |w| of each output.
  int64_t points(const int8_t* w, int32_t out, int32_t rows, int32_t columns, int32_t in, int32_t n_pad,
                 const std::vector<int32_t>& source, const std::vector<int64_t>& sizes, int64_t max_x) {
    if (!points_ || *std::max_element(sizes.begin(), sizes.end()) * max_x >= kPointLimit) return 0;
    const int32_t in_pad = static_cast<int32_t>(source.size());
    const int64_t at = out_.reserve(static_cast<size_t>(point_elements(rows, in_pad, n_pad)) * sizeof(int16_t));
    pack_points(w, out, rows, columns, in, in_pad, n_pad, source.data(), reinterpret_cast<int16_t*>(out_.data() + at));
    return at;
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

  // Of each output's weights, and of their magnitudes.
  struct Sums {
    std::vector<int64_t> plain, absolute;

    Sums(const int8_t* w, int32_t out, size_t per) : plain(out), absolute(out) {
      for (int32_t n = 0; n < out; ++n) {
        int32_t sum = 0, size = 0;  // at most 49 * 4096 * 128
        for (size_t i = 0; i < per; ++i) {
          const int32_t v = w[n * per + i];
          sum += v;
          size += v < 0 ? -v : v;
        }
        plain[n] = sum;
        absolute[n] = size;
      }
    }
  };

  // What planes of biased bytes need: sum w (x + zero) = sum w x + zero sum w.
  int64_t byte_bias(int64_t sum, int32_t zero) const { return k_.element_bytes == 1 ? -zero * sum : 0; }

  std::vector<int32_t> multipliers(int32_t n) {
    std::vector<int32_t> mult = in_.numbers(n);
    for (int32_t v : mult)
      if (v < 0) fail("a negative multiplier");
    return mult;
  }

  std::vector<int32_t> shifts(int32_t n) {
    std::vector<int32_t> shift = in_.numbers(n);
    for (int32_t v : shift)
      if (v < 16 || v > 62) fail("a shift outside 16..62");
    return shift;
  }

  // How accumulators become outputs.
  struct Factors {
    std::vector<int32_t> mult, shift, below;
    int32_t zero = 0;
  };

  Factors factors(int32_t n, int32_t n_pad, int32_t output, int64_t& mult_at, int64_t& shift_at, int64_t& below_at,
                  int32_t& zero) {
    Factors f;
    f.mult = multipliers(n);
    f.shift = shifts(n);
    f.below.resize(n, 0);
    if (output == kLeaky8) {
      f.zero = in_.number(0, 255, "a zero point");
      f.below = multipliers(n);
    }
    const auto padded = [&](std::vector<int32_t> v, int32_t with) {
      v.resize(n_pad, with);
      return out_.put(v);
    };
    mult_at = padded(f.mult, 0);
    shift_at = padded(f.shift, 32);
    below_at = padded(f.below, 0);
    zero = f.zero;
    return f;
  }

  // The overflow proof for one channel: the accumulator and its requantized value both fit 32 bits.
  static int64_t bound(int64_t weight_sum, int64_t max_x, int64_t bias, const Factors& f, int32_t n) {
    const int64_t acc = weight_sum * max_x + std::abs(bias);
    if (acc > kInt32Max) fail("an accumulator could overflow");
    const int64_t out = ((acc * std::max(f.mult[n], f.below[n])) >> f.shift[n]) + 1;
    if (out > kInt32Max) fail("a requantized value could overflow");
    return out;
  }

  bool may_be(int32_t found, Output wanted) const {
    return found == wanted || (found == kLeaky8 && wanted == kRelu8 && version_ >= 2);
  }

  // `where`: places of the input channels in the plane; empty: in order. `zero`: the byte that stands for 0 in it.
  // kRelu8 stands for leaky8 too. Returns the largest |requantized| per channel.
  std::vector<int64_t> conv(ConvDesc& d, std::vector<int32_t> where, int32_t cin, Output output, bool is_signed,
                            int32_t zero) {
    d.cin = in_.number(1, kMaxChannels, "input channels");
    if (d.cin != cin) fail("a layer's input channels do not match what it reads");
    d.cout = in_.number(1, kMaxChannels, "output channels");
    d.kernel = in_.number(1, 7, "a kernel");
    if (d.kernel % 2 == 0) fail("an even kernel");
    d.upsample = in_.number(1, 2, "an upsampling factor");
    d.output = in_.number(0, 3, "an output code");
    d.is_signed = in_.number(0, 1, "the sign of an input");
    if (!may_be(d.output, output)) fail("an output code that does not fit the layer's place");
    if (d.is_signed != is_signed) fail("a layer's input sign does not match what it reads");
    if (d.upsample == 2 && (d.cout % 4 || output != kRelu8)) fail("a layer that cannot upsample");
    if (where.empty()) where = in_order(cin);
    d.cin_pad = round_up(where.back() + 1, 4);
    d.n_pad = round_up(d.cout, k_.n_block);
    const int32_t taps = d.kernel * d.kernel;
    const size_t per = static_cast<size_t>(taps) * d.cin;
    const auto* w = reinterpret_cast<const int8_t*>(in_.bytes(per * d.cout));
    const std::vector<int32_t> source = sources(where, d.cin_pad);
    d.weights = weights(w, d.cout, taps, d.cin, d.n_pad, source);
    d.in_zero = zero;
    std::vector<int32_t> bias = in_.numbers(d.cout);
    const Factors f = factors(d.cout, d.n_pad, d.output, d.mult, d.shift, d.below, d.zero);
    const Sums sums(w, d.cout, per);
    std::vector<int64_t> limits(d.cout);
    const int64_t max_x = is_signed ? kContextLimit : std::max(zero, 255 - zero);
    if (d.kernel == 3 || d.kernel == 5)
      d.points = points(w, d.cout, d.kernel, d.kernel, d.cin, d.n_pad, source, sums.absolute, max_x);
    for (int32_t n = 0; n < d.cout; ++n) {
      // The biased form's intermediate sums may wrap; its result is the true accumulator modulo 2^32.
      limits[n] = bound(sums.absolute[n], max_x, bias[n], f, n);
      bias[n] = static_cast<int32_t>(static_cast<uint32_t>(bias[n] + byte_bias(sums.plain[n], zero)));
    }
    bias.resize(d.n_pad, 0);
    d.bias = out_.put(bias);
    return limits;
  }

  void group(PackedModel& m, int index) {
    GroupDesc& d = m.group[index];
    d.taps = in_.number(0, kMaxTaps, "taps");
    d.uniform_taps = 1;
    for (int t = 0; t < d.taps; ++t) {
      d.tap_di[t] = in_.number(-kBorder, kBorder, "a tap");
      d.tap_dj[t] = in_.number(-kBorder, kBorder, "a tap");
      if (t > 0 && std::pair(d.tap_di[t], d.tap_dj[t]) <= std::pair(d.tap_di[t - 1], d.tap_dj[t - 1]))
        fail("taps that are not in raster order");
      bool any = false;
      for (int a = 0; a < d.schedule.ph; ++a)
        for (int b = 0; b < d.schedule.pw; ++b) {
          const bool ok = tap_available(d.schedule, a, b, d.tap_di[t], d.tap_dj[t]);
          any |= ok;
          if (!ok) d.uniform_taps = m.uniform_taps = 0;
        }
      if (!any) fail("a tap that the schedule never decodes in time");
    }
    d.base_width = in_.number(1, kMaxChannels, "the width of the base");
    d.base_pad = round_up(d.base_width, k_.n_block);
    d.f_output = version_ >= 2 ? in_.number(0, 3, "the output code of a context") : kRelu8;
    const bool direct = d.f_output == kHead;
    if (!direct && !may_be(d.f_output, kRelu8)) fail("an output code that does not fit the context's place");
    if (direct && d.base_width != 2 * d.channels) fail("a direct head of the wrong width");
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
    if (index == 0 && d.stack_layers) fail("a cross-channel stack in the first group");
    for (int i = 0; i < d.stack_layers; ++i) {
      const bool last = i + 1 == d.stack_layers;
      const int32_t cin = i == 0 ? d.first_channel : d.stack[i - 1].cout;
      const int32_t zero = i == 0 ? kLatentZero : d.stack[i - 1].zero;
      const auto limits =
          conv(d.stack[i], i == 0 ? where : in_order(cin), cin, last ? kAccumulate : kRelu8, i == 0, zero);
      if (d.stack[i].upsample != 1) fail("upsampling inside a stack");
      if (last) add(total, limits, d.stack[i], d.base_width);
    }
    d.has_skip = in_.number(0, 1, "the skip flag");
    if (index == 0 && d.has_skip) fail("a skip path in the first group");
    if (d.has_skip)
      add(total, conv(d.skip, where, d.first_channel, kAccumulate, true, kLatentZero), d.skip, d.base_width);
    for (int32_t n = 0; n < d.base_width; ++n) bound(sums.absolute[n], kContextLimit, total[n], f, n);
    if (direct) return;

    d.hidden_layers = in_.number(0, kMaxLayers, "hidden layers");
    int32_t width = d.base_width, zero = d.f_zero;
    for (int i = 0; i < d.hidden_layers; ++i) {
      conv(d.hidden[i], {}, width, kRelu8, false, zero);
      if (d.hidden[i].kernel != 1 || d.hidden[i].upsample != 1) fail("a hidden layer that is not 1x1");
      width = d.hidden[i].cout;
      zero = d.hidden[i].zero;
    }
    conv(d.head, {}, width, kHead, false, zero);
    if (d.head.kernel != 1 || d.head.upsample != 1) fail("a head that is not 1x1");
    if (d.head.cout != 2 * d.channels) fail("a head of the wrong width");
  }

  static int32_t psi_zero(const PackedModel& m) { return m.hs[m.hs_layers - 1].zero; }

  static void check_width(const ConvDesc& d, int32_t width) {
    if (d.cout != width || d.upsample != 1) fail("a part of the base has the wrong width");
  }

  static void add(std::vector<int64_t>& total, const std::vector<int64_t>& part, const ConvDesc& d, int32_t width) {
    check_width(d, width);
    for (int32_t n = 0; n < width; ++n) total[n] += part[n];
  }

  PackedRows rows(int32_t expected, const char* what) {
    const int32_t count = in_.number(1, kMaxRowEntries, what);
    if (count != expected) fail(std::string("wrong number of ") + what);
    const std::vector<int32_t> lo = in_.numbers(count), n = in_.numbers(count);
    const int32_t total = in_.number(2, INT32_MAX / 4, "the length of the tables");
    const uint8_t* values = in_.bytes(static_cast<size_t>(total) * 2);
    std::vector<uint16_t> cdf(total);
    load_all(values, cdf.size(), cdf.data(), load_u16);
    const OwnedRows rows = build_rows(lo, n, cdf);
    return {out_.put(rows.info),  out_.put(rows.find),    out_.put(rows.entries),
            out_.put(rows.below), out_.put(rows.buckets), count};
  }

  Reader in_;
  size_t size_;
  int32_t version_ = 1;
  int32_t skipped_ = -1;           // the last scale index of symbols that are not coded
  std::vector<int32_t> z_values_;  // of all channels, if any is not coded
  const Layout& k_;
  const bool points_, parts_;
  Sections<64> out_;  // cache lines, vector loads
};

}  // namespace

std::vector<uint8_t> pack_plan(const uint8_t* plan, size_t size, const Kernels& kernels) {
  return Packer(plan, size, kernels, kernels.to_points, kernels.add).run();
}

std::vector<uint8_t> pack_plan(const uint8_t* plan, size_t size, const Layout& layout) {
  return Packer(plan, size, layout, false, false).run();
}

std::vector<int32_t> int8_product(const Kernels& kernels, const uint8_t* x, const int8_t* w, int32_t m, int32_t k,
                                  int32_t n, int64_t repeats) {
  const int32_t n_pad = round_up(n, kernels.n_block);
  std::vector<uint8_t> packed(static_cast<size_t>(k) * n_pad * kernels.element_bytes);
  pack_weights(kernels, w, n, 1, k, n_pad, in_order(k), 1, packed.data());
  std::vector<uint8_t> elements(static_cast<size_t>(m) * k * kernels.element_bytes);
  for (size_t i = 0; i < static_cast<size_t>(m) * k; ++i)
    if (kernels.element_bytes == 2)
      reinterpret_cast<int16_t*>(elements.data())[i] = x[i];
    else
      elements[i] = x[i];
  const std::vector<int32_t> zeros(n_pad);
  std::vector<int32_t> c(static_cast<size_t>(m) * n_pad), out;
  constexpr int32_t kRows = 48;  // as a caller with plenty of rows would do it
  const int32_t zero = 0;
  const int32_t* inits[kRows];
  std::fill(inits, inits + kRows, zeros.data());
  for (int64_t r = 0; r < repeats; ++r)
    for (int32_t first = 0; first < m; first += kRows) {
      const int32_t rows = std::min(kRows, m - first);
      const void* a[kRows];
      for (int32_t i = 0; i < rows; ++i)
        a[i] = elements.data() + static_cast<size_t>(first + i) * k * kernels.element_bytes;
      kernels.gemm(
          {a, &zero, packed.data(), inits, c.data() + static_cast<size_t>(first) * n_pad, n_pad, rows, 1, k, n_pad});
    }
  for (int32_t i = 0; i < m; ++i)
    out.insert(out.end(), c.begin() + static_cast<size_t>(i) * n_pad, c.begin() + static_cast<size_t>(i) * n_pad + n);
  return out;
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
