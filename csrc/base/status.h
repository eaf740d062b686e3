// Result codes of decoders, shared by host and device. Never an assert: a damaged stream is an ordinary result.
#pragma once
#include <cstdint>

namespace ccm {

enum Status : int32_t {
  kOk = 0,
  kTruncated = 1,  // a read past the last word of a stream
  kDamaged = 2,    // wrong final state, unread words, an impossible escape or an impossible value
};

}  // namespace ccm
