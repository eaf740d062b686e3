// JSON as weights files hold it (RFC 8259): small, and with limits, since it comes from files.
#pragma once
#include <cstdint>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace ccm {

struct Json {
  enum Kind { kNull, kBool, kNumber, kString, kArray, kObject };
  Kind kind = kNull;
  bool truth = false;
  double number = 0;
  std::string text;
  std::vector<Json> items;
  std::vector<std::pair<std::string, Json>> members;  // in the order of the text, names unique

  // The member of that name, or null if there is none or this is no object.
  const Json* find(std::string_view name) const;
  // Whether this is a whole number in lo..hi, which then goes to `value`.
  bool whole(int64_t lo, int64_t hi, int64_t& value) const;
};

// One value and white space. Throws Error (kModel): not JSON, members of one name, deeper than 16 levels.
Json parse_json(std::string_view text);

}  // namespace ccm
