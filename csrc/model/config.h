// What the transforms of a model look like, as a weights file says (ccm_fast/models/config.py).
#pragma once
#include <cstdint>
#include <vector>

#include "model/json.h"

namespace ccm {

struct ModelConfig {
  std::vector<int32_t> widths{64, 112, 128};    // channels at 1/4, 1/8 and 1/16 of the picture's sides
  std::vector<int32_t> blocks{1, 2, 1};         // residual blocks there, of g_a
  std::vector<int32_t> synthesis_blocks;        // of g_s; empty: as many
  std::vector<int32_t> groups{32, 32, 32, 32};  // channels of each latent group
  int32_t hyper_channels = 64, psi_channels = 96, qualities = 8;
  bool centroid = false;   // g_s reads what symbols stand for, not the symbols
  bool fine = false;       // the last group has a linear way of its own through g_a and g_s
  bool fine_deep = false;  // and is told of the features at 1/8

  int32_t latent_channels() const;
  int32_t fine_channels() const { return fine ? groups.back() : 0; }
  int32_t coarse_channels() const { return latent_channels() - fine_channels(); }
  const std::vector<int32_t>& g_s_blocks() const { return synthesis_blocks.empty() ? blocks : synthesis_blocks; }
};

// Throws Error (kModel): a value of the wrong kind, or outside what the engines take.
ModelConfig read_config(const Json& json);

}  // namespace ccm
