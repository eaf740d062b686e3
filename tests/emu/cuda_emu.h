// The part of CUDA that our kernels use, for g++: one fiber per CUDA thread on one OS thread, scheduled from a seed.
//
// Things that surprise: shared memory is fresh garbage for every block; a warp collective waits until every living lane
// of its mask has come (lanes do not run in lockstep in between, so a missing __syncwarp shows); memory is sequentially
// consistent, so a missing release is seen by ThreadSanitizer only, and speed means nothing. There is no __activemask
// and no __shared__ on purpose: kernels name their masks, and declare shared memory through csrc/entropy/cuda/device.h.
//
// Environment, read at every launch:
//   CCM_EMU_SEED      0: threads run in turn; else a random schedule of that seed
//   CCM_EMU_RESIDENT  most blocks on the device at once (default: all, up to 16,384 threads)
//   CCM_EMU_SMEM      shared memory of a block in bytes (default 232,448, as sm_90)
//   CCM_EMU_SMS       multiprocessors that cudaDeviceGetAttribute reports (default 4)
//   CCM_EMU_PATIENCE  polls without a visible change after which all threads are said to spin (default 10 million)
#pragma once
#include "emulator/collectives.h"
#include "emulator/host.h"
#include "emulator/intrinsics.h"
#include "emulator/runtime.h"
