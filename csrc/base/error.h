// The typed failures of the codec. Thrown inside the library, turned into status codes at the C interface and into
// Python's exceptions at its module: nothing is thrown across either.
#pragma once
#include <cstdint>
#include <stdexcept>
#include <string>

namespace ccm {

// Numbered as ccm_status in ccm.h.
enum class ErrorCode : int32_t {
  kNotCcm = 1,       // the bytes do not begin like a .ccm file
  kTruncated = 2,    // they end before their header says so
  kDamaged = 3,      // a checksum, a final coder state or a field contradicts the rest
  kWrongModel = 4,   // written with another model
  kUnsupported = 5,  // a newer or unknown version of the format
  kLimit = 6,        // more pixels or bytes than the caller allows
  kModel = 7,        // the weights file is not usable
  kArgument = 8,     // the caller's argument is out of range
  kFile = 9,         // a file cannot be opened or read
  kEncode = 10,      // the latents of the picture cannot be coded
  kMemory = 11,      // no memory
  kInternal = 12,    // anything else: a fault of this library
};

struct Error : std::runtime_error {
  Error(ErrorCode code, const std::string& message) : std::runtime_error(message), code(code) {}
  ErrorCode code;
};

}  // namespace ccm
