// The device as the host sees it, and graphs.
#include "host.h"

#include <cstdlib>
#include <utility>

#include "state.h"

namespace emu {
namespace {

emu_graph* capture = nullptr;  // what has been captured so far
bool capture_is_valid = false;

}  // namespace

long long setting(const char* name, long long otherwise) {
  const char* v = std::getenv(name);
  return v && *v ? std::atoll(v) : otherwise;
}
long long shared_limit() { return setting("CCM_EMU_SMEM", 232448); }

const char* last_error() { return error.c_str(); }

bool capturing() { return capture != nullptr; }

void record(std::function<int()> work) { capture->work.push_back(std::move(work)); }

int refuse_capture(const char* call) {
  if (!capturing()) return cudaSuccess;
  error = std::string(call) + " while work is captured into a graph";
  capture_is_valid = false;
  return cudaErrorStreamCaptureUnsupported;
}

int attribute(int which) {
  switch (which) {
    case cudaDevAttrMultiProcessorCount:
      return static_cast<int>(setting("CCM_EMU_SMS", 4));
    case cudaDevAttrComputeCapabilityMajor:
      return 9;
    case cudaDevAttrCooperativeLaunch:
      return 1;
    case cudaDevAttrMaxSharedMemoryPerBlockOptin:
      return static_cast<int>(shared_limit());
    case cudaDevAttrMaxSharedMemoryPerMultiprocessor:
      return static_cast<int>(shared_limit()) + 1024;
    default:
      return 0;
  }
}

}  // namespace emu

cudaError_t cudaStreamBeginCapture(cudaStream_t, cudaStreamCaptureMode) {
  if (emu::capture) return cudaErrorStreamCaptureUnsupported;
  emu::capture = new emu_graph;
  emu::capture_is_valid = true;
  emu::error.clear();
  return cudaSuccess;
}

cudaError_t cudaStreamEndCapture(cudaStream_t, cudaGraph_t* graph) {
  *graph = emu::capture;
  emu::capture = nullptr;
  if (*graph && emu::capture_is_valid) return cudaSuccess;
  delete *graph;
  *graph = nullptr;
  return cudaErrorStreamCaptureInvalidated;
}
