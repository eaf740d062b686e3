// Weights of the products of bytes, as kernels read them.
#pragma once
#include <cstdint>
#include <vector>

#include "model/layout.h"

namespace ccm {

// Weights [out][of_taps][in] (int8), of which `taps` are taken -> panels of n_block columns; element (tap, k) of a
// column lies k_block apart. `source`: the input channel of each of the in_pad channels of the padded plane, -1 where
// there is none. n_pad: columns with those that fill the last panel up, whose elements stay as they are.
void pack_weights(const Layout& layout, const int8_t* w, int32_t out, int32_t taps, int32_t in, int32_t n_pad,
                  const std::vector<int32_t>& source, int32_t of_taps, uint8_t* to);

// 0 .. n - 1.
std::vector<int32_t> in_order(int32_t n);

// The input channel of each channel of a padded plane, from the places of the channels in it.
std::vector<int32_t> sources(const std::vector<int32_t>& where, int32_t in_pad);

inline int32_t round_up(int32_t v, int32_t to) { return (v + to - 1) / to * to; }

}  // namespace ccm
