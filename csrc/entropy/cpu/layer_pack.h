// A layer of a plan: read, proved, and laid out.
#pragma once
#include <cstddef>
#include <cstdint>
#include <vector>

#include "entropy/cpu/plan_reader.h"
#include "model/layout.h"
#include "model/model.h"
#include "model/sections.h"

namespace ccm {

constexpr int32_t kMaxChannels = 4096;

// Reads layers, one after another, and appends their sections. Everything throws PlanError.
class LayerPacker {
 protected:
  // points: whether the kernels have products in the Winograd domain.
  LayerPacker(const uint8_t* plan, size_t size, const Layout& layout, bool points, size_t head)
      : in_(plan, size), k_(layout), points_(points), out_(head) {}

  // Offset of the weights [out][taps][in].
  int64_t weights(const int8_t* w, int32_t out, int32_t taps, int32_t in, int32_t n_pad,
                  const std::vector<int32_t>& source);

  // Offset of the weights in the Winograd domain; 0 if their 26-bit bound fails or these kernels have no such path.
  // sizes: the sum of |w| of each output.
  int64_t points(const int8_t* w, int32_t out, int32_t rows, int32_t columns, int32_t in, int32_t n_pad,
                 const std::vector<int32_t>& source, const std::vector<int64_t>& sizes, int64_t max_x);

  // Of each output's weights, and of their magnitudes.
  struct Sums {
    std::vector<int64_t> plain, absolute;

    Sums(const int8_t* w, int32_t out, size_t per);
  };

  // What planes of biased bytes need: sum w (x + zero) = sum w x + zero sum w.
  int64_t byte_bias(int64_t sum, int32_t zero) const { return k_.element_bytes == 1 ? -zero * sum : 0; }

  std::vector<int32_t> multipliers(int32_t n);
  std::vector<int32_t> shifts(int32_t n);

  // How accumulators become outputs.
  struct Factors {
    std::vector<int32_t> mult, shift, below;
    int32_t zero = 0;
  };

  // Of a layer of n outputs; the offsets of their sections, each of n_pad, are stored.
  Factors factors(int32_t n, int32_t n_pad, int32_t output, int64_t& mult_at, int64_t& shift_at, int64_t& below_at,
                  int32_t& zero);

  // The overflow proof for one channel: the accumulator and its requantized value both fit 32 bits. Returns the largest
  // |requantized|.
  static int64_t bound(int64_t weight_sum, int64_t max_x, int64_t bias, const Factors& f, int32_t n);

  // Whether an output code may stand where `wanted` is meant: kRelu8 stands for leaky8 too.
  bool may_be(int32_t found, Output wanted) const {
    return found == wanted || (found == kLeaky8 && wanted == kRelu8 && version_ >= 2);
  }

  // `where`: places of the input channels in the plane; empty: in order. `zero`: the byte that stands for 0 in it.
  // Returns the largest |requantized| per channel.
  std::vector<int64_t> conv(ConvDesc& d, std::vector<int32_t> where, int32_t cin, Output output, bool is_signed,
                            int32_t zero);

  PlanReader in_;
  int32_t version_ = 1;
  const Layout& k_;
  const bool points_;
  Sections<64> out_;  // cache lines, vector loads
};

}  // namespace ccm
