#include "entropy/cpu/layer_pack.h"

#include <algorithm>
#include <cstdlib>
#include <string>

#include "entropy/cpu/panels.h"
#include "entropy/cpu/winograd_int.h"

namespace ccm {
namespace {

constexpr int64_t kInt32Max = 2147483647;

}  // namespace

int64_t LayerPacker::weights(const int8_t* w, int32_t out, int32_t taps, int32_t in, int32_t n_pad,
                             const std::vector<int32_t>& source) {
  const int64_t at = out_.reserve(static_cast<size_t>(taps) * source.size() * n_pad * k_.element_bytes);
  pack_weights(k_, w, out, taps, in, n_pad, source, taps, out_.data() + at);
  return at;
}

int64_t LayerPacker::points(const int8_t* w, int32_t out, int32_t rows, int32_t columns, int32_t in, int32_t n_pad,
                            const std::vector<int32_t>& source, const std::vector<int64_t>& sizes, int64_t max_x) {
  if (!points_ || *std::max_element(sizes.begin(), sizes.end()) * max_x >= kPointLimit) return 0;
  const int32_t in_pad = static_cast<int32_t>(source.size());
  const int64_t at = out_.reserve(static_cast<size_t>(point_elements(rows, in_pad, n_pad)) * sizeof(int16_t));
  pack_points(w, out, rows, columns, in, in_pad, n_pad, source.data(), reinterpret_cast<int16_t*>(out_.data() + at));
  return at;
}

LayerPacker::Sums::Sums(const int8_t* w, int32_t out, size_t per) : plain(out), absolute(out) {
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

std::vector<int32_t> LayerPacker::multipliers(int32_t n) {
  std::vector<int32_t> mult = in_.numbers(n);
  for (int32_t v : mult)
    if (v < 0) bad_plan("a negative multiplier");
  return mult;
}

std::vector<int32_t> LayerPacker::shifts(int32_t n) {
  std::vector<int32_t> shift = in_.numbers(n);
  for (int32_t v : shift)
    if (v < 16 || v > 62) bad_plan("a shift outside 16..62");
  return shift;
}

LayerPacker::Factors LayerPacker::factors(int32_t n, int32_t n_pad, int32_t output, int64_t& mult_at, int64_t& shift_at,
                                          int64_t& below_at, int32_t& zero) {
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

int64_t LayerPacker::bound(int64_t weight_sum, int64_t max_x, int64_t bias, const Factors& f, int32_t n) {
  const int64_t acc = weight_sum * max_x + std::abs(bias);
  if (acc > kInt32Max) bad_plan("an accumulator could overflow");
  const int64_t out = ((acc * std::max(f.mult[n], f.below[n])) >> f.shift[n]) + 1;
  if (out > kInt32Max) bad_plan("a requantized value could overflow");
  return out;
}

std::vector<int64_t> LayerPacker::conv(ConvDesc& d, std::vector<int32_t> where, int32_t cin, Output output,
                                       bool is_signed, int32_t zero) {
  d.cin = in_.number(1, kMaxChannels, "input channels");
  if (d.cin != cin) bad_plan("a layer's input channels do not match what it reads");
  d.cout = in_.number(1, kMaxChannels, "output channels");
  d.kernel = in_.number(1, 7, "a kernel");
  if (d.kernel % 2 == 0) bad_plan("an even kernel");
  d.upsample = in_.number(1, 2, "an upsampling factor");
  d.output = in_.number(0, 3, "an output code");
  d.is_signed = in_.number(0, 1, "the sign of an input");
  if (!may_be(d.output, output)) bad_plan("an output code that does not fit the layer's place");
  if (d.is_signed != is_signed) bad_plan("a layer's input sign does not match what it reads");
  if (d.upsample == 2 && (d.cout % 4 || output != kRelu8)) bad_plan("a layer that cannot upsample");
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

}  // namespace ccm
