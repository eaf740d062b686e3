#include "entropy/cpu/context_cpu.h"

#include <algorithm>
#include <memory>

#include "base/interrupt.h"
#include "base/threads.h"
#include "entropy/cpu/group_cpu.h"
#include "entropy/cpu/rans_cpu.h"
#include "entropy/cpu/winograd_int.h"

namespace ccm {
namespace {

#if !defined(CCM_SHARE_ALL)
// Positions of psi that h_s computes at once: of pictures up to 67 megapixels all of them.
constexpr int64_t kPiecePositions = 1 << 18;
// Multiply-adds of a layer of h_s that are worth a thread, 1 to 2 ms. Where torch's threads have just been at work they
// keep their cores busy for some milliseconds more: h_s of ccm-small, 0.7 ms on one thread, took 7 on two.
constexpr int64_t kThreadsProducts = 100000000;
#else  // tests, whose planes are small
constexpr int64_t kPiecePositions = 64;
constexpr int64_t kThreadsProducts = 1;
#endif

// Rows and offsets of one group for an encoder that knows all of y; symbols in coding order.
void known_parameters(const PackedModel& m, const Kernels& k, int32_t g, const Plane& context, const uint8_t* psi,
                      const int16_t* y, const StepOrder& order, int32_t h, int32_t w, std::vector<uint16_t>& rows,
                      std::vector<int16_t>& offsets) {
  const GroupDesc& d = m.group[g];
  Group group(m, k, g, h, w);
  group.all_dense(context, psi);
  const size_t n = static_cast<size_t>(h) * w * d.channels;
  rows.resize(n);
  offsets.resize(n);
  StepScratch scratch;
  if (d.uniform_taps) {
    group.all_own(context);
    constexpr int32_t kBetweenPolls = 4096;
    for (int32_t p = 0; p < h * w; p += kBetweenPolls, poll()) {
      const size_t at = static_cast<size_t>(p) * d.channels;
      group.parameters(context, &order.row[p], &order.col[p], std::min(kBetweenPolls, h * w - p), 0, scratch, &rows[at],
                       &offsets[at]);
    }
    return;
  }
  // Which taps are available differs from position to position: fill the plane step by step, as the decoder does.
  Plane own(k, h, w, m.plane_channels, kLatentZero);
  for (int32_t s = 0; s < order.steps(); ++s, poll()) {
    const int32_t first = order.first[s], count = order.positions(s);
    const size_t at = static_cast<size_t>(first) * d.channels;
    group.parameters(own, &order.row[first], &order.col[first], count, 0, scratch, &rows[at], &offsets[at]);
    for (int32_t p = first; p < first + count; ++p)
      put_y(m, d, own, order.row[p], order.col[p], y + place(m, d, order, p, w));
  }
}

Plane context_plane(const PackedModel& m, const Kernels& k, const int16_t* y, int32_t h, int32_t w) {
  Plane plane(k, h, w, m.plane_channels, kLatentZero);
  for (int32_t i = 0; i < h; ++i)
    for (int32_t j = 0; j < w; ++j)
      for (int32_t g = 0; g < m.groups; ++g)
        put_y(m, m.group[g], plane, i, j,
              y + (static_cast<int64_t>(i) * w + j) * m.latent_channels + m.group[g].first_channel);
  return plane;
}

// Rows of the coded symbols of z.
std::vector<uint16_t> z_rows(const PackedModel& m, int64_t positions) {
  const uint16_t* channels = m.at<uint16_t>(m.z_channels);
  std::vector<uint16_t> rows(static_cast<size_t>(positions) * m.z_coded);
  for (size_t i = 0; i < rows.size(); ++i) rows[i] = channels[i % m.z_coded];
  return rows;
}

}  // namespace

Status decode_z(const PackedModel& m, const Segment& stream, int32_t hz, int32_t wz, int16_t* z) {
  const int64_t positions = static_cast<int64_t>(hz) * wz;
  // Piece by piece, so that a stream that ends early takes no memory for what it claims.
  constexpr int64_t kPiece = 16 * kMostLanes;
  const std::vector<uint16_t> rows = z_rows(m, std::min(positions, kPiece));
  std::vector<int16_t> symbols(rows.size());
  StreamDecoder decoder(stream.data, static_cast<size_t>(stream.size), stream.code, rans_vectors(kernels_of(m)));
  const int16_t* values = m.at<int16_t>(m.z_values);
  const uint16_t* channels = m.at<uint16_t>(m.z_channels);
  for (int64_t first = 0; first < positions && !decoder.over(); first += kPiece) {
    poll();
    const int64_t count = std::min(positions - first, kPiece);
    decoder.decode(m.rows(m.z_rows), rows.data(), nullptr, static_cast<int32_t>(count * m.z_coded), symbols.data());
    const int16_t* from = symbols.data();
    for (int64_t p = 0; p < count; ++p, z += m.hyper_channels, from += m.z_coded) {
      std::copy_n(values, m.hyper_channels, z);
      for (int32_t c = 0; c < m.z_coded; ++c) z[channels[c]] = from[c];
    }
  }
  decoder.end_step();
  return decoder.finish();
}

EncodedStream encode_z(const PackedModel& m, const int16_t* z, int32_t hz, int32_t wz, int32_t code) {
  const std::vector<uint16_t> rows = z_rows(m, static_cast<int64_t>(hz) * wz);
  std::vector<Coded> symbols(rows.size());
  for (size_t i = 0; i < rows.size(); ++i) symbols[i] = {z[i / m.z_coded * m.hyper_channels + rows[i]], rows[i]};
  EncodedStream out;
  out.bytes =
      encode_stream(m.rows(m.z_rows), symbols, {static_cast<int32_t>(symbols.size())}, code, &out.code, kLanesOfZ);
  return out;
}

void hyper(const PackedModel& m, const int16_t* z, int32_t hz, int32_t wz, int32_t h, int32_t w, int threads,
           uint8_t* psi) {
  const Kernels& k = kernels_of(m);
  Plane in(k, hz, wz, m.hs[0].cin_pad, kLatentZero);
  for (int32_t i = 0; i < hz; ++i)
    for (int32_t j = 0; j < wz; ++j)
      in.put_latents(i, j, 0, z + (static_cast<int64_t>(i) * wz + j) * m.hyper_channels, m.hyper_channels);
  int32_t rows = hz, cols = wz;
  for (int32_t l = 0; l < m.hs_layers; ++l) {
    const ConvDesc& d = m.hs[l];
    const int32_t channels = d.cout / (d.upsample * d.upsample), up = d.upsample;
    const int64_t products = int64_t{d.kernel} * d.kernel * d.cin_pad * d.n_pad * rows * cols;
    const int useful = static_cast<int>(std::clamp<int64_t>(products / kThreadsProducts, 1, threads));
    // At Winograd's points: strips of whole tiles, and few, since each reads all weights.
    const int64_t unit = d.points ? kTileRows : 1;
    // Rows first .. last - 1 of the layer's inputs.
    const auto run = [&](int32_t first, int32_t last, Plane& out) {
      const int64_t units = (last - first + unit - 1) / unit;
      const int64_t strips = std::min<int64_t>(units, d.points ? useful : useful * int64_t{4});
      parallel_for(useful, strips, [&](int64_t s) {
        const int64_t from = first + units * s / strips * unit, to = first + units * (s + 1) / strips * unit;
        conv_byte_rows(m, k, d, in, static_cast<int32_t>(from), static_cast<int32_t>(std::min<int64_t>(to, last)), cols,
                       out);
      });
    };
    const int32_t padded = (channels + 3) / 4 * 4;
    if (l + 1 < m.hs_layers) {
      Plane out(k, rows * up, cols * up, padded, d.zero);
      run(0, rows, out);
      in = std::move(out);
      rows *= up;
      cols *= up;
      continue;
    }
    // The last layer's plane is as large as psi: piece by piece, and without a border that nobody reads.
    const auto piece =
        static_cast<int32_t>(std::max<int64_t>(1, kPiecePositions / (int64_t{cols} * up * up) / unit) * unit);
    for (int32_t first = 0; first < rows && first * up < h; first += piece) {
      const int32_t last = std::min(first + piece, rows), top = first * up;
      Plane out(k, (last - first) * up, cols * up, padded, d.zero, true, top);
      run(first, last, out);
      for (int32_t i = top; i < std::min(last * up, h); ++i)
        for (int32_t j = 0; j < w; ++j)
          out.get_bytes(i, j, psi + (static_cast<int64_t>(i) * w + j) * m.psi_channels, m.psi_channels);
    }
  }
}

namespace {

// body(group, order, rows, offsets) for every group of an image whose y is known, on several threads.
template <class Body>
void for_each_group(const PackedModel& m, const uint8_t* psi, const int16_t* y, int32_t h, int32_t w, int threads,
                    Body body) {
  const Kernels& k = kernels_of(m);
  const std::vector<std::shared_ptr<const StepOrder>> orders = step_orders(m, h, w);
  const Plane context = context_plane(m, k, y, h, w);
  // Last group first: it has the most earlier channels to look at, and the longest task should not start last.
  parallel_for(threads, m.groups, [&](int64_t i) {
    const int32_t g = m.groups - 1 - static_cast<int32_t>(i);
    std::vector<uint16_t> rows;
    std::vector<int16_t> offsets;
    known_parameters(m, k, g, context, psi, y, *orders[g], h, w, rows, offsets);
    body(g, *orders[g], rows, offsets);
  });
}

}  // namespace

void parameters(const PackedModel& m, const uint8_t* psi, const int16_t* y, int32_t h, int32_t w, int threads,
                uint16_t* rows, int16_t* offsets) {
  for_each_group(m, psi, y, h, w, threads, [&](int32_t g, const StepOrder& order, const auto& r, const auto& o) {
    const GroupDesc& d = m.group[g];
    for (size_t p = 0; p < order.row.size(); ++p) {
      std::copy_n(&r[p * d.channels], d.channels, rows + place(m, d, order, p, w));
      if (m.residual)
        std::fill_n(offsets + place(m, d, order, p, w), d.channels, int16_t{0});
      else
        std::copy_n(&o[p * d.channels], d.channels, offsets + place(m, d, order, p, w));
    }
  });
}

std::vector<EncodedStream> encode_y(const PackedModel& m, const uint8_t* psi, const int16_t* y, int32_t h, int32_t w,
                                    int32_t code, int threads) {
  std::vector<EncodedStream> streams(m.groups);
  for_each_group(m, psi, y, h, w, threads,
                 [&](int32_t g, const StepOrder& order, const auto& rows, const auto& offsets) {
                   const GroupDesc& d = m.group[g];
                   std::vector<Coded> symbols(rows.size());
                   for (size_t p = 0; p < order.row.size(); ++p) {
                     const int16_t* from = y + place(m, d, order, p, w);
                     for (int32_t c = 0; c < d.channels; ++c) {
                       const size_t i = p * d.channels + c;
                       symbols[i] = {from[c] - offsets[i], rows[i]};
                     }
                   }
                   const std::vector<int32_t> steps = order.symbols(d.channels);
                   streams[g].bytes =
                       encode_stream(m.rows(m.y_rows), symbols, steps, code, &streams[g].code, kLanesOfY, order.first);
                 });
  return streams;
}

}  // namespace ccm
