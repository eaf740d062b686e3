#include "base/crc32c.h"

namespace ccm {

uint32_t crc32c(const uint8_t* data, size_t size, uint32_t crc) {
  // Slicing by eight: eight tables let one iteration take eight bytes.
  static const struct Tables {
    uint32_t t[8][256];
    Tables() {
      for (uint32_t i = 0; i < 256; ++i) {
        uint32_t c = i;
        for (int k = 0; k < 8; ++k) c = c & 1 ? c >> 1 ^ 0x82f63b78u : c >> 1;  // the polynomial, bit-reversed
        t[0][i] = c;
      }
      for (int s = 1; s < 8; ++s)
        for (int i = 0; i < 256; ++i) t[s][i] = t[s - 1][i] >> 8 ^ t[0][t[s - 1][i] & 255];
    }
  } tables;
  const auto& t = tables.t;
  crc = ~crc;
  for (; size >= 8; size -= 8, data += 8) {
    crc ^= data[0] | data[1] << 8 | data[2] << 16 | static_cast<uint32_t>(data[3]) << 24;
    crc = t[7][crc & 255] ^ t[6][crc >> 8 & 255] ^ t[5][crc >> 16 & 255] ^ t[4][crc >> 24] ^ t[3][data[4]] ^
          t[2][data[5]] ^ t[1][data[6]] ^ t[0][data[7]];
  }
  for (; size; --size, ++data) crc = crc >> 8 ^ t[0][(crc ^ *data) & 255];
  return ~crc;
}

}  // namespace ccm
