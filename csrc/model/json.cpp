#include "model/json.h"

#include <algorithm>
#include <cmath>
#include <cstdlib>

#include "base/error.h"

namespace ccm {
namespace {

constexpr int kMostLevels = 16;

[[noreturn]] void fail(const char* why) { throw Error(ErrorCode::kModel, std::string("malformed JSON: ") + why); }

void put_utf8(std::string& to, uint32_t code) {
  if (code < 0x80) {
    to += static_cast<char>(code);
    return;
  }
  const int more = code < 0x800 ? 1 : code < 0x10000 ? 2 : 3;
  constexpr uint32_t kLead[] = {0, 0xc0, 0xe0, 0xf0};
  to += static_cast<char>(kLead[more] | code >> 6 * more);
  for (int k = more - 1; k >= 0; --k) to += static_cast<char>(0x80 | (code >> 6 * k & 0x3f));
}

class Parser {
 public:
  explicit Parser(std::string_view text) : left_(text) {}

  Json all() {
    Json value = any(0);
    space();
    if (!left_.empty()) fail("something follows the value");
    return value;
  }

 private:
  char peek() const { return left_.empty() ? '\0' : left_[0]; }
  bool take(char c) {
    if (peek() != c || left_.empty()) return false;
    left_.remove_prefix(1);
    return true;
  }
  void space() {
    const size_t n = left_.find_first_not_of(" \t\r\n");
    left_.remove_prefix(n == left_.npos ? left_.size() : n);
  }
  bool word(std::string_view w) {
    if (left_.substr(0, w.size()) != w) return false;
    left_.remove_prefix(w.size());
    return true;
  }

  Json any(int level) {
    if (level > kMostLevels) fail("too many levels");
    space();
    Json value;
    switch (peek()) {
      case '{':
        object(value, level);
        break;
      case '[':
        array(value, level);
        break;
      case '"':
        value.kind = Json::kString;
        value.text = string();
        break;
      default:
        plain(value);
    }
    return value;
  }

  void object(Json& value, int level) {
    value.kind = Json::kObject;
    take('{');
    space();
    if (take('}')) return;
    std::vector<std::string> names;
    do {
      space();
      if (peek() != '"') fail("a member without a name");
      std::string name = string();
      space();
      if (!take(':')) fail("no colon after a name");
      names.push_back(name);
      value.members.emplace_back(std::move(name), any(level + 1));
      space();
    } while (take(','));
    if (!take('}')) fail("an object does not end");
    std::sort(names.begin(), names.end());
    if (std::adjacent_find(names.begin(), names.end()) != names.end()) fail("two members of one name");
  }

  void array(Json& value, int level) {
    value.kind = Json::kArray;
    take('[');
    space();
    if (take(']')) return;
    do {
      value.items.push_back(any(level + 1));
      space();
    } while (take(','));
    if (!take(']')) fail("an array does not end");
  }

  void plain(Json& value) {
    if (word("null")) return;
    value.kind = Json::kBool;
    if (word("false")) return;
    value.truth = true;
    if (word("true")) return;
    const size_t n = std::min(left_.find_first_not_of("+-.0123456789eE"), left_.size());
    if (!n || n > 40) fail("no value");
    const std::string digits(left_.substr(0, n));
    char* end;
    value = {};
    value.kind = Json::kNumber;
    value.number = std::strtod(digits.c_str(), &end);
    if (*end || digits[0] == '+' || digits[0] == '.' || !std::isfinite(value.number)) fail("no number");
    left_.remove_prefix(n);
  }

  uint32_t hex4() {
    uint32_t code = 0;
    if (left_.size() < 4) fail("an escape is cut off");
    for (int k = 0; k < 4; ++k) {
      const char c = left_[k];
      const bool digit = c >= '0' && c <= '9', lower = c >= 'a' && c <= 'f', upper = c >= 'A' && c <= 'F';
      if (!digit && !lower && !upper) fail("an escape that is no number");
      code = code * 16 + static_cast<uint32_t>(digit ? c - '0' : (c | 0x20) - 'a' + 10);
    }
    left_.remove_prefix(4);
    return code;
  }

  uint32_t escaped_code() {
    const uint32_t code = hex4();
    if (code < 0xd800 || code > 0xdfff) return code;
    if (code > 0xdbff || !word("\\u")) fail("half a surrogate pair");
    const uint32_t low = hex4();
    if (low < 0xdc00 || low > 0xdfff) fail("half a surrogate pair");
    return 0x10000 + ((code - 0xd800) << 10) + (low - 0xdc00);
  }

  std::string string() {
    std::string out;
    take('"');
    while (true) {
      if (left_.empty()) fail("a string does not end");
      const char c = left_[0];
      left_.remove_prefix(1);
      if (c == '"') return out;
      if (static_cast<unsigned char>(c) < 0x20) fail("a control character in a string");
      if (c != '\\') {
        out += c;
        continue;
      }
      constexpr std::string_view kEscapes = "\"\\/bfnrt", kMeant = "\"\\/\b\f\n\r\t";
      if (take('u')) {
        put_utf8(out, escaped_code());
      } else if (const size_t k = left_.empty() ? kEscapes.npos : kEscapes.find(left_[0]); k != kEscapes.npos) {
        out += kMeant[k];
        left_.remove_prefix(1);
      } else {
        fail("an unknown escape");
      }
    }
  }

  std::string_view left_;
};

}  // namespace

const Json* Json::find(std::string_view name) const {
  for (const auto& [key, value] : members)
    if (key == name) return &value;
  return nullptr;
}

bool Json::whole(int64_t lo, int64_t hi, int64_t& value) const {
  if (kind != kNumber || number != std::floor(number)) return false;
  if (number < static_cast<double>(lo) || number > static_cast<double>(hi)) return false;
  value = static_cast<int64_t>(number);
  return true;
}

Json parse_json(std::string_view text) { return Parser(text).all(); }

}  // namespace ccm
