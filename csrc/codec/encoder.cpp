#include "codec/encoder.h"

#include <algorithm>
#include <cmath>
#include <optional>
#include <string>
#include <utility>

#include "base/error.h"
#include "base/interrupt.h"
#include "base/threads.h"
#include "codec/filter_fit.h"
#include "codec/stopwatch.h"
#include "format/rans.h"
#include "format/symbol.h"

namespace ccm {
namespace {

// Cells of 4x4 pixels that a latent spans in each direction, and what a cell holds: 16 c + 4 u + v.
constexpr int64_t kLatentCells = 4, kCellSide = 4;
constexpr int32_t kCellPixels = 16, kColours = 3;

// Rounding weighs errors so much more than they cost one by one; see ccm_fast/effort/search.py.
constexpr float kShrinkPenalty = 1.5f;
// Corrections larger than this share of the latents are not taken: g_a and g_s are then no inverses.
constexpr double kLargestCorrection = 0.25;
// lambda of the lowest and the highest quality, log-linear between them (ccm_fast/models/quality.py).
constexpr double kLowestLambda = 0.0018, kHighestLambda = 0.18;
constexpr double kQualities = 7;  // from the lowest to the highest

// About which share of the time has gone by when a stage ends: 24 megapixels at the default effort.
constexpr double kAnalysisEnds = 0.4, kHyperEnds = 0.5, kCorrectionEnds = 0.65, kEffortEnds = 0.7, kEntropyEnds = 0.8;

// What models were trained with at a quality.
double lambda_of(int32_t quality_code) {
  const double at = quality_code / 32.0 / kQualities;
  return kLowestLambda * std::pow(kHighestLambda / kLowestLambda, at);
}

// Symbols of rounded values. Throws Error (kEncode) for those that the format cannot carry, NaN among them.
std::vector<int16_t> symbols_of(const FloatPlane& x, const char* name) {
  std::vector<int16_t> out(static_cast<size_t>(x.height * x.width * x.channels));
  const float* from = x.values.data();
  for (size_t i = 0; i < out.size(); ++i) {
    const float v = std::nearbyint(from[i]);
    if (!(std::abs(v) <= kSymbolMax))
      throw Error(ErrorCode::kEncode,
                  std::string(name) + " leaves the range of 16-bit symbols: this model cannot code this image");
    out[i] = static_cast<int16_t>(v);
  }
  return out;
}

// Gives channels of z that are not coded their values.
void fix_z(const PackedModel& m, std::vector<int16_t>& z) {
  if (m.z_coded == m.hyper_channels) return;
  std::vector<uint8_t> coded(static_cast<size_t>(m.hyper_channels));
  const uint16_t* channels = m.at<uint16_t>(m.z_channels);
  for (int32_t c = 0; c < m.z_coded; ++c) coded[channels[c]] = 1;
  const int16_t* values = m.at<int16_t>(m.z_values);
  for (size_t i = 0; i < z.size(); ++i)
    if (const size_t c = i % coded.size(); !coded[c]) z[i] = values[c];
}

// Pixels that the features stand for, as g_a reads them: edges are repeated beyond the picture's `height` x `width`.
FloatPlane seen(const FloatPlane& features, int64_t height, int64_t width, bool grey) {
  FloatPlane x(features.height, features.width, features.channels), to(x.height, x.width, x.channels);
  for (int64_t k = 0; k < x.height * x.width; ++k) {
    const float* from = features.at(0, k);
    float* cell = x.at(0, k);
    for (int32_t c = 0; c < x.channels; ++c) cell[c] = from[c] * 0.25f + 0.5f;
    if (!grey) continue;
    for (int32_t p = 0; p < kCellPixels; ++p)
      cell[p] = cell[p + kCellPixels] = cell[p + 2 * kCellPixels] =
          (cell[p] + cell[p + kCellPixels] + cell[p + 2 * kCellPixels]) / 3;
  }
  const auto pixel = [&](int64_t i, int64_t j, int32_t c) {
    i = std::min(i, height - 1);
    j = std::min(j, width - 1);
    return x.at(i / kCellSide, j / kCellSide)[c * kCellPixels + i % kCellSide * kCellSide + j % kCellSide];
  };
  for (int64_t i = 0; i < x.height; ++i)
    for (int64_t j = 0; j < x.width; ++j) {
      float* cell = to.at(i, j);
      const bool inside = (i + 1) * kCellSide <= height && (j + 1) * kCellSide <= width;
      if (inside) {
        const float* from = x.at(i, j);
        for (int32_t c = 0; c < x.channels; ++c) cell[c] = (from[c] - 0.5f) * 4.0f;
        continue;
      }
      for (int32_t c = 0; c < kColours; ++c)
        for (int32_t p = 0; p < kCellPixels; ++p)
          cell[c * kCellPixels + p] =
              (pixel(i * kCellSide + p / kCellSide, j * kCellSide + p % kCellSide, c) - 0.5f) * 4.0f;
    }
  return to;
}

}  // namespace

// A picture's latents under way.
struct Encoder::Latents {
  int32_t h = 0, w = 0;
  FloatPlane y;                // not rounded
  std::vector<int16_t> y_hat;  // y rounded
  std::vector<uint8_t> psi;
  std::vector<uint16_t> rows;  // of parameters()
  std::vector<int16_t> offsets;
};

Encoder::Encoder(const WeightsFile& file, const PackedModel& model, const Synthesis& synthesis,
                 const std::vector<float>& shifts, bool int16)
    : m_(model),
      synthesis_(synthesis),
      shifts_(shifts),
      analysis_(file, int16),
      y_bits_(model.rows(model.y_rows)),
      squared_error_(file.metric() == "mse"),
      filters_(file.filters()),
      qualities_(file.config().qualities),
      log_gain_(file.floats("log_gain", {file.config().qualities, file.config().latent_channels()})),
      sensitivities_(file.sensitivities()) {}

int Encoder::level(int effort) const {
  if (!effort) effort = squared_error_ ? kMostEffort : 1;
  if (effort < 1 || effort > kMostEffort)
    throw Error(ErrorCode::kArgument, "effort must lie in 1.." + std::to_string(kMostEffort) + " here");
  if (effort > 1 && !squared_error_)
    throw Error(ErrorCode::kArgument,
                "the model was not trained for squared error, which efforts above 1 minimize: use effort 1");
  if (effort > 1 && sensitivities_.empty())
    throw Error(ErrorCode::kArgument, "the weights file has no sensitivities, which efforts above 1 need here");
  return effort;
}

EncodedPicture Encoder::encode(const PixelSource& pixels, const EncodeOptions& options, EncodeTimes& times) const {
  const int effort = level(options.effort);
  const int32_t code = kVersion2 + options.lanes;
  if (options.lanes && !valid_streams(code))
    throw Error(ErrorCode::kArgument, "lanes must be 0 (chosen), 1, 2, 4, 8, 16, 32, 64 or 128");
  if (pixels.width < 1 || pixels.height < 1 || pixels.width > kMaxSide || pixels.height > kMaxSide)
    throw Error(ErrorCode::kArgument, "sides of a picture are 1 to " + std::to_string(kMaxSide) + " pixels");
  const PacketHead head{pixels.width, pixels.height};
  const int threads = options.threads;
  Latents l;
  l.h = static_cast<int32_t>(head.h());
  l.w = static_cast<int32_t>(head.w());
  const auto hz = static_cast<int32_t>(head.hz()), wz = static_cast<int32_t>(head.wz());
  {
    const Stopwatch watch(&times.analysis);
    const Portion portion(0, kAnalysisEnds);
    l.y = analysis_.run(pixels, l.h, l.w, threads);
    const std::vector<float> gain = gain_vector(log_gain_, qualities_, options.quality_code);
    for (int64_t k = 0; k < l.y.height * l.y.width; ++k) {
      float* y = l.y.at(0, k);
      for (int32_t c = 0; c < l.y.channels; ++c) y[c] *= gain[c];
    }
    l.y_hat = symbols_of(l.y, "y");
  }
  std::vector<int16_t> z_hat;
  {
    const Stopwatch watch(&times.hyper_analysis);
    const Portion portion(kAnalysisEnds, kAnalysisEnds);
    z_hat = symbols_of(analysis_.hyper(l.y, threads), "z");
    fix_z(m_, z_hat);
  }
  l.psi.resize(static_cast<size_t>(l.h) * l.w * m_.psi_channels);
  {
    const Stopwatch watch(&times.hyper);
    const Portion portion(kAnalysisEnds, kHyperEnds);
    ccm::hyper(m_, z_hat.data(), hz, wz, l.h, l.w, threads, l.psi.data());
  }
  if (effort > 1) {
    const Stopwatch watch(&times.effort);
    // Of the nearest symbols, for both: parameters of corrected ones took 7 % of the time, for 0.02 % of the bits
    // (BD-rate on ten photographs of Kodak).
    parameters(l, threads);
    if (effort > 2) correct(l, pixels, options);
    round_towards_mean(l, pixels.channels == 1, options);
  }
  const bool filtered = effort > 1 && filters_;
  EncodedPicture out;
  {
    const Stopwatch watch(&times.entropy);
    const Portion portion(kEffortEnds, kEntropyEnds);
    out.streams.push_back(encode_z(m_, z_hat.data(), hz, wz, code));
    for (EncodedStream& s : coded(l, code, filtered, threads)) out.streams.push_back(std::move(s));
  }
  if (filtered) {
    const Stopwatch watch(&times.filter);
    const Portion portion(kEntropyEnds, 1.0);
    out.filter = filter_of(l, pixels, options);
  }
  return out;
}

std::vector<EncodedStream> Encoder::coded(Latents& l, int32_t code, bool filtered, int threads) const {
  if (!m_.skip_rows) {
    if (filtered) parameters(l, threads);
    return encode_y(m_, l.psi.data(), l.y_hat.data(), l.h, l.w, code, threads);
  }
  if (filtered) {
    l.rows.resize(l.y_hat.size());
    l.offsets.resize(l.y_hat.size());
  }
  std::vector<EncodedStream> streams(static_cast<size_t>(m_.groups));
  std::vector<int16_t> settled(l.y_hat.size());
  settle_y(m_, l.h, l.w, code, threads,
           {{l.psi.data(), l.y_hat.data(), settled.data(), streams.data(), filtered ? l.rows.data() : nullptr,
             filtered ? l.offsets.data() : nullptr}});
  l.y_hat.swap(settled);
  return streams;
}

void Encoder::parameters(Latents& l, int threads) const {
  l.rows.resize(l.y_hat.size());
  l.offsets.resize(l.y_hat.size());
  if (!m_.skip_rows) {
    ccm::parameters(m_, l.psi.data(), l.y_hat.data(), l.h, l.w, threads, l.rows.data(), l.offsets.data());
    return;
  }
  std::vector<int16_t> settled(l.y_hat.size());
  settle_y(m_, l.h, l.w, 0, threads,
           {{l.psi.data(), l.y_hat.data(), settled.data(), nullptr, l.rows.data(), l.offsets.data()}});
  l.y_hat.swap(settled);
}

float Encoder::restored(int32_t y, int32_t offset, int32_t row) const {
  const auto whole = static_cast<float>(y);
  if (shifts_.empty()) return whole;
  return whole + shifts_[row * (2 * kShiftReach + 1) + kShiftReach + std::clamp(y - offset, -kShiftReach, kShiftReach)];
}

FloatPlane Encoder::restored(const Latents& l) const {
  FloatPlane v(l.h, l.w, l.y.channels);
  for (size_t i = 0; i < l.y_hat.size(); ++i) v.values.data()[i] = restored(l.y_hat[i], l.offsets[i], l.rows[i]);
  return v;
}

// y += share * (v - g_a(g_s(v))) for the restored symbols v, if that is a small step (ccm_fast/effort/correction.py).
void Encoder::correct(Latents& l, const PixelSource& pixels, const EncodeOptions& options) const {
  const Portion whole(kHyperEnds, kCorrectionEnds);
  const int threads = options.threads;
  const int32_t channels = l.y.channels;
  const std::vector<float> gain = gain_vector(log_gain_, qualities_, options.quality_code);
  const std::vector<float> inverse = synthesis_.gain(options.quality_code);
  const FloatPlane v = restored(l);
  FloatPlane step(l.h, l.w, channels);
  const std::vector<Tile> tiles = plan_tiles(l.h, l.w, synthesis_.margin() + analysis_.margin(), kTileLatents);
  for (size_t k = 0; k < tiles.size(); ++k) {
    const Portion portion(static_cast<int64_t>(k), static_cast<int64_t>(tiles.size()));
    const Tile& t = tiles[k];
    constexpr int64_t kSide = kLatentCells * kCellSide;
    const FloatPlane again =
        analysis_.run(seen(synthesis_.features({v.values.data(), l.h, l.w, {0, l.h, 0, l.w}}, inverse, t, threads),
                           pixels.height - t.outer_i0 * kSide, pixels.width - t.outer_j0 * kSide, pixels.channels == 1),
                      threads);
    for (int64_t i = t.i0; i < t.i1; ++i)
      for (int64_t j = t.j0; j < t.j1; ++j) {
        const float *from = v.at(i, j), *got = again.at(i - t.outer_i0, j - t.outer_j0);
        float* to = step.at(i, j);
        for (int32_t c = 0; c < channels; ++c) to[c] = from[c] - got[c] * gain[c];
      }
  }
  double of_step = 0, of_v = 0;
  for (size_t i = 0; i < l.y_hat.size(); ++i) {
    of_step += double{step.values.data()[i]} * step.values.data()[i];
    of_v += double{v.values.data()[i]} * v.values.data()[i];
  }
  if (!(std::sqrt(of_step) <= kLargestCorrection * std::sqrt(of_v))) return;
  const float quality = 1 + options.quality_code / 32.0f;
  const float share = 0.65f * (quality - 1) / 7.0f + 0.35f;
  for (size_t i = 0; i < l.y_hat.size(); ++i) {
    float& y = l.y.values.data()[i];
    y += share * step.values.data()[i];
    const float limit = kSymbolMax;
    l.y_hat[i] = static_cast<int16_t>(std::clamp(std::nearbyint(y), -limit, limit));
  }
}

// A step towards the mean wherever it saves more bits than its error costs, by the parameters that are known.
void Encoder::round_towards_mean(Latents& l, bool grey, const EncodeOptions& options) const {
  const Portion portion(kCorrectionEnds, kEffortEnds);
  const int32_t channels = l.y.channels;
  // Bits that a squared error of 1 is worth, summed over pixels and colours; then of one symbol.
  const auto price = static_cast<float>(lambda_of(options.quality_code) * (255.0 * 255.0 / 3));
  const std::vector<float> inverse = synthesis_.gain(options.quality_code);
  std::vector<float> weight(static_cast<size_t>(channels));
  for (int32_t c = 0; c < channels; ++c)
    weight[c] = kShrinkPenalty * (price * sensitivities_[(grey ? channels : 0) + c] * (inverse[c] * inverse[c]));
  parallel_for(options.threads, l.h, [&](int64_t row) {
    const size_t first = static_cast<size_t>(row) * l.w * channels, end = first + static_cast<size_t>(l.w) * channels;
    for (size_t i = first; i < end; ++i) {
      const int32_t y = l.y_hat[i], offset = l.offsets[i], r = l.rows[i], v = y - offset;
      if (!v) continue;
      const int32_t step = v > 0 ? 1 : -1;
      const float saved = y_bits_(r, v) - y_bits_(r, v - step);
      const float real = l.y.values.data()[i];
      const float before = restored(y, offset, r) - real, after = restored(y - step, offset, r) - real;
      const float cost = weight[(i - first) % channels] * (after * after - before * before);
      if (saved > cost) l.y_hat[i] = static_cast<int16_t>(y - step);
    }
  });
}

std::vector<uint8_t> Encoder::filter_of(const Latents& l, const PixelSource& pixels,
                                        const EncodeOptions& options) const {
  const bool grey = pixels.channels == 1;
  FilterStatistics statistics(grey ? 1 : kColours);
  const FloatPlane v = restored(l);
  synthesis_.each_tile({v.values.data(), l.h, l.w, {0, l.h, 0, l.w}}, options.quality_code,
                       {0, pixels.height, 0, pixels.width}, pixels.height, pixels.width, grey, options.threads,
                       [&](const FilterPlanes& planes) { statistics.add(planes, pixels, options.threads); });
  const std::optional<PictureFilter> found = statistics.fit(filter_price(options.quality_code, grey));
  return found ? write_filter(*found) : std::vector<uint8_t>();
}

double filter_price(int32_t quality_code, bool grey) {
  // The Lagrangian has the mean of three colours, which are equal where they are grey.
  return lambda_of(quality_code) / (grey ? 1 : kColours) / (kFilterUnits * kFilterUnits);
}

}  // namespace ccm
