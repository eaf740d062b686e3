#include "model/config.h"

#include <numeric>
#include <string>

#include "base/error.h"
#include "model/model.h"

namespace ccm {
namespace {

constexpr int64_t kMaxChannels = 4096, kMaxBlocks = 64, kMaxQualities = 256;
constexpr size_t kResolutions = 3;

[[noreturn]] void fail(const std::string& name) {
  throw Error(ErrorCode::kModel, "bad configuration: " + name + " is not what it should be");
}

void number(const Json& json, const char* name, int64_t lo, int64_t hi, int32_t& value) {
  const Json* found = json.find(name);
  if (!found) return;
  int64_t v;
  if (!found->whole(lo, hi, v)) fail(name);
  value = static_cast<int32_t>(v);
}

void numbers(const Json& json, const char* name, int64_t lo, int64_t hi, std::vector<int32_t>& values) {
  const Json* found = json.find(name);
  if (!found) return;
  if (found->kind != Json::kArray) fail(name);
  values.clear();
  for (const Json& item : found->items) {
    int64_t v;
    if (!item.whole(lo, hi, v)) fail(name);
    values.push_back(static_cast<int32_t>(v));
  }
}

void truth(const Json& json, const char* name, bool& value) {
  const Json* found = json.find(name);
  if (!found) return;
  if (found->kind != Json::kBool) fail(name);
  value = found->truth;
}

}  // namespace

int32_t ModelConfig::latent_channels() const { return std::accumulate(groups.begin(), groups.end(), 0); }

ModelConfig read_config(const Json& json) {
  if (json.kind != Json::kObject) fail("the whole");
  ModelConfig c;
  numbers(json, "widths", 1, kMaxChannels, c.widths);
  numbers(json, "blocks", 0, kMaxBlocks, c.blocks);
  numbers(json, "synthesis_blocks", 0, kMaxBlocks, c.synthesis_blocks);
  numbers(json, "groups", 1, kMaxChannels, c.groups);
  number(json, "hyper_channels", 1, kMaxChannels, c.hyper_channels);
  number(json, "psi_channels", 1, kMaxChannels, c.psi_channels);
  number(json, "qualities", 1, kMaxQualities, c.qualities);
  truth(json, "fine", c.fine);
  truth(json, "fine_deep", c.fine_deep);
  if (const Json* found = json.find("reconstruction")) {
    if (found->text != "integer" && found->text != "centroid") fail("reconstruction");
    c.centroid = found->text == "centroid";
  }
  if (c.widths.size() != kResolutions || c.blocks.size() != kResolutions) fail("widths or blocks");
  if (!c.synthesis_blocks.empty() && c.synthesis_blocks.size() != kResolutions) fail("synthesis_blocks");
  if (c.groups.empty() || c.groups.size() > kMaxGroups || c.latent_channels() > kMaxChannels) fail("groups");
  if (c.fine && c.groups.size() < 2) fail("fine");
  return c;
}

}  // namespace ccm
