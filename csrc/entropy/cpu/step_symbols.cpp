#include "entropy/cpu/step_symbols.h"

#include <algorithm>

#include "format/residual.h"
#include "format/symbol.h"

namespace ccm {
namespace {

// Where the values of a group's position go, of a plane of so many channels; null where they are not wanted.
float* value_place(const BatchJob& job, const GroupDesc& d, int32_t row, int32_t column, int32_t channels) {
  const int32_t i = row - job.wanted.top, j = column - job.wanted.left;
  if (!job.values || i < 0 || i >= job.wanted.height || j < 0 || j >= job.wanted.width) return nullptr;
  return job.values + (int64_t{i} * job.wanted.width + j) * channels + d.first_channel;
}

// What n symbols of a step, from `at` on, stand for.
void put_values(const BatchJob& job, int32_t g, const StepBuffers& b, size_t at, int32_t n, float* out) {
  const int16_t* y = &b.symbols[at];
  for (int32_t c = 0; c < n; ++c) out[c] = y[c];
  if (g >= job.groups_read) {
    for (int32_t c = 0; c < n; ++c) out[c] += job.means[b.rows[at + c]];
    return;
  }
  if (!job.shifts) return;
  for (int32_t c = 0; c < n; ++c) {
    const int32_t v = std::clamp(y[c] - b.offsets[at + c], -kShiftReach, kShiftReach);
    out[c] += job.shifts[b.rows[at + c] * (2 * kShiftReach + 1) + kShiftReach + v];
  }
}

// decode() where some symbols are not coded.
bool decode_coded(const PackedModel& m, StreamDecoder& stream, const Rows& tables, size_t n, StepBuffers& b) {
  const uint16_t first_row = static_cast<uint16_t>(m.skip_rows);
  constexpr size_t kBlock = 16;  // mostly all or none of so many channels
  int32_t coded = 0;
  for (size_t first = 0; first < n; first += kBlock) {
    const size_t end = std::min(first + kBlock, n);
    uint16_t most = 0;
    for (size_t i = first; i < end; ++i) most = std::max(most, b.rows[i]);
    if (most < first_row) continue;
    for (size_t i = first; i < end; ++i) {  // without a branch
      b.places[coded] = static_cast<int32_t>(i);
      coded += b.rows[i] >= first_row;
    }
  }
  for (int32_t k = 0; k < coded; ++k) {
    b.coded_rows[k] = b.rows[b.places[k]];
    b.coded_offsets[k] = b.offsets[b.places[k]];
  }
  const bool good =
      stream.decode_step(tables, b.coded_rows.data(), b.coded_offsets.data(), coded, b.coded_symbols.data());
  std::copy_n(b.offsets.data(), n, b.symbols.data());
  for (int32_t k = 0; k < coded; ++k) b.symbols[b.places[k]] = b.coded_symbols[k];
  return good;
}

// y of the next n symbols of a stream; false when it is damaged.
bool decode(const PackedModel& m, StreamDecoder& stream, size_t n, StepBuffers& b) {
  const int32_t count = static_cast<int32_t>(n);
  const Rows tables = m.rows(m.y_rows);
  if (m.skip_rows) return decode_coded(m, stream, tables, n, b);
  if (!m.residual) return stream.decode_step(tables, b.rows.data(), b.offsets.data(), count, b.symbols.data());
  if (!stream.decode_step(tables, b.rows.data(), b.zeros.data(), count, b.symbols.data())) return false;
  bool good = true;
  for (size_t i = 0; i < n; ++i) {
    const int32_t y = residual_latent(b.symbols[i], b.offsets[i]);
    good &= symbol_fits(y);
    b.symbols[i] = static_cast<int16_t>(y);
  }
  return good;
}

// Encoders that know y: what a decoder will have of `count` positions, whose symbols that are not coded are their
// offsets, and the symbols that are coded.
void settle(const PackedModel& m, const StepOrder& order, int32_t w, BatchImage& image, int32_t g, int32_t first,
            int32_t count, StepBuffers& b) {
  const GroupDesc& d = m.group[g];
  int32_t coded = 0;
  for (int32_t p = 0; p < count; ++p) {
    const int16_t* from = image.job.known + place(m, d, order, first + p, w);
    for (int32_t c = 0; c < d.channels; ++c) {
      const size_t i = static_cast<size_t>(p) * d.channels + c;
      const bool skipped = b.rows[i] < m.skip_rows;
      b.symbols[i] = skipped ? b.offsets[i] : from[c];
      if (skipped || !image.job.encoded) continue;
      image.symbols[g].push_back({from[c] - b.offsets[i], b.rows[i]});
      ++coded;
    }
  }
  image.coded[g].push_back(coded);
}

// Residual encoders: symbols and y of `count` positions. Latents are in 1/256, means and y in 1/16.
void quantize(const PackedModel& m, const StepOrder& order, int32_t w, BatchImage& image, int32_t g, int32_t first,
              int32_t count, StepBuffers& b) {
  const GroupDesc& d = m.group[g];
  for (int32_t p = 0; p < count; ++p) {
    const int32_t* from = image.job.latents + place(m, d, order, first + p, w);
    for (int32_t c = 0; c < d.channels; ++c) {
      const size_t i = static_cast<size_t>(p) * d.channels + c;
      const int32_t v = residual_symbol(from[c], b.offsets[i]);
      image.symbols[g].push_back({v, b.rows[i]});
      b.symbols[i] = static_cast<int16_t>(residual_latent(v, b.offsets[i]));
    }
  }
  image.coded[g].push_back(count * d.channels);
}

}  // namespace

bool code_symbols(const PackedModel& m, const StepOrder& order, int32_t w, BatchImage& image, int32_t g, int32_t s,
                  StepBuffers& b) {
  const GroupDesc& d = m.group[g];
  const int32_t first = order.first[s], count = order.positions(s);
  const size_t n = static_cast<size_t>(count) * d.channels;
  if (image.job.latents)
    quantize(m, order, w, image, g, first, count, b);
  else if (image.job.known)
    settle(m, order, w, image, g, first, count, b);
  else if (g >= image.job.groups_read)
    std::copy_n(b.offsets.data(), n, b.symbols.data());
  else if (!image.streams[g].begin_step(order.first.back() - first) || !decode(m, image.streams[g], n, b))
    return false;
  for (int32_t p = 0; p < count; ++p) {
    const int16_t* from = b.symbols.data() + static_cast<size_t>(p) * d.channels;
    put_y(m, d, image.context, order.row[first + p], order.col[first + p], from);
    const int64_t to = place(m, d, order, first + p, w);
    if (image.job.y) std::copy(from, from + d.channels, image.job.y + to);
    if (image.job.rows) {
      const size_t at = static_cast<size_t>(p) * d.channels;
      std::copy_n(&b.rows[at], d.channels, image.job.rows + to);
      if (!m.residual) std::copy_n(&b.offsets[at], d.channels, image.job.offsets + to);
    }
    if (float* out = value_place(image.job, d, order.row[first + p], order.col[first + p], m.latent_channels))
      put_values(image.job, g, b, static_cast<size_t>(p) * d.channels, d.channels, out);
  }
  return true;
}

void write_stream(const PackedModel& m, const StepOrder& order, BatchImage& image, int32_t g, int32_t code) {
  EncodedStream& out = image.job.encoded[g];
  out.bytes =
      encode_stream(m.rows(m.y_rows), image.symbols[g], image.coded[g], code, &out.code, kLanesOfY, order.first);
  std::vector<Coded>().swap(image.symbols[g]);
}

}  // namespace ccm
