// Single steps of symbols where they lower the Lagrangian: one pass of an encoder's search (ccm_fast/effort/passes.py).
#pragma once
#include <cstdint>

namespace ccm {

// What symbols cost, by the rows that they are coded with.
struct MoveTables {
  const float* bits;      // of every entry of every row
  const int32_t* lo;      // symbol of a row's entry 0
  const int32_t* escape;  // number of a row's last entry
  const int32_t* start;   // of a row's first entry in `bits`
  const float* least;     // bits that a step away from the offset takes at least
  int32_t rows;           // of all these
  const float* shifts;    // what g_s reads beside the symbol, [rows][2 reach + 1]; null: nothing
  int32_t reach;          // distances from the offset beyond it have the last one's shift
  float farthest;         // that a step away from the offset moves what g_s reads, at most
};

// Planes [batch][height][width][channels].
struct MoveArgs {
  MoveTables tables;
  int64_t batch, height, width, channels;
  const int32_t* symbols;
  const int16_t *offset, *row;
  const float* slope;      // bits that a unit of what g_s reads adds, to first order
  const float* curvature;  // and to second: times its square; of every symbol, or of the channels of each image
  bool curved_everywhere;  // which of both
  const float* contexts;   // bits that later symbols take more for a unit step
  const bool* turn;        // symbols that may move, [height][width][channels]
  float* moved;            // the symbols afterwards
};

// Returns false, with some of `moved` written, where a row is out of range.
bool move_symbols(const MoveArgs& a, int threads);

// Bits of the symbols of `count` images of `size` each; of `tables` what code lengths are made of. False as above.
bool coded_bits(const MoveTables& tables, const int32_t* symbols, const int16_t* offset, const int16_t* row,
                int64_t count, int64_t size, double* bits, int threads);

}  // namespace ccm
