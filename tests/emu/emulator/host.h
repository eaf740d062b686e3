// The host's side: device memory is host memory, every stream is synchronous.
//
// One stream at a time may be captured. What a real driver refuses then is refused here, and ends the capture: waiting
// for the device, taking memory from it, copies that wait for the host.
#pragma once
#include <cstddef>
#include <cstring>
#include <functional>
#include <vector>

#include "runtime.h"

typedef void* cudaStream_t;
enum cudaError_t {
  cudaSuccess = 0,
  cudaErrorInvalidValue = 1,
  cudaErrorInvalidConfiguration = 9,
  cudaErrorLaunchFailure = 719,
  cudaErrorStreamCaptureUnsupported = 900,
  cudaErrorStreamCaptureInvalidated = 901,
  cudaErrorCooperativeLaunchTooLarge = 720
};
enum cudaDeviceAttr {
  cudaDevAttrMultiProcessorCount = 16,
  cudaDevAttrComputeCapabilityMajor = 75,
  cudaDevAttrComputeCapabilityMinor = 76,
  cudaDevAttrMaxSharedMemoryPerMultiprocessor = 81,
  cudaDevAttrCooperativeLaunch = 95,
  cudaDevAttrMaxSharedMemoryPerBlockOptin = 97
};
enum cudaFuncAttribute { cudaFuncAttributeMaxDynamicSharedMemorySize = 8 };
enum cudaMemcpyKind { cudaMemcpyHostToDevice = 1, cudaMemcpyDeviceToHost, cudaMemcpyDeviceToDevice, cudaMemcpyDefault };
inline cudaError_t cudaGetLastError() { return cudaSuccess; }
inline cudaError_t cudaPeekAtLastError() { return cudaSuccess; }
inline const char* cudaGetErrorString(cudaError_t e) { return e == cudaSuccess ? "no error" : emu::last_error(); }
inline cudaError_t cudaGetDevice(int* device) { return *device = 0, cudaSuccess; }
inline cudaError_t cudaSetDevice(int) { return cudaSuccess; }
inline cudaError_t allowed(const char* call) { return static_cast<cudaError_t>(emu::refuse_capture(call)); }
inline cudaError_t cudaStreamSynchronize(cudaStream_t) { return allowed("cudaStreamSynchronize"); }
inline cudaError_t cudaDeviceSynchronize() { return allowed("cudaDeviceSynchronize"); }
template <class T>
cudaError_t cudaMalloc(T** p, size_t bytes) {
  if (cudaError_t e = allowed("cudaMalloc")) return e;
  return *p = static_cast<T*>(::operator new(bytes)), cudaSuccess;
}
inline cudaError_t cudaFree(void* p) {
  if (cudaError_t e = allowed("cudaFree")) return e;
  return ::operator delete(p), cudaSuccess;
}
inline cudaError_t cudaDeviceGetAttribute(int* value, cudaDeviceAttr which, int) {
  return *value = emu::attribute(which), cudaSuccess;
}
template <class K>
cudaError_t cudaFuncSetAttribute(K, cudaFuncAttribute, int) {
  return cudaSuccess;
}
template <class K>
cudaError_t cudaOccupancyMaxActiveBlocksPerMultiprocessor(int* blocks, K, int threads, size_t shared) {
  int by_threads = 2048 / threads;
  // 1 KB of a multiprocessor's shared memory is the system's, for every block.
  int by_shared = static_cast<int>(emu::attribute(cudaDevAttrMaxSharedMemoryPerMultiprocessor) / (shared + 1024));
  *blocks = by_threads < by_shared ? by_threads : by_shared;
  return cudaSuccess;
}
inline cudaError_t cudaMemsetAsync(void* p, int v, size_t n, cudaStream_t) {
  auto work = [=] { return memset(p, v, n), 0; };
  return emu::capturing() ? (emu::record(work), cudaSuccess) : (work(), cudaSuccess);
}
inline cudaError_t cudaMemcpyAsync(void* to, const void* from, size_t n, cudaMemcpyKind kind, cudaStream_t) {
  auto work = [=] { return memcpy(to, from, n), 0; };
  if (!emu::capturing()) return work(), cudaSuccess;
  // From and to memory that is not pinned, which is all there is here, a copy waits for the host.
  if (kind != cudaMemcpyDeviceToDevice) return allowed("cudaMemcpyAsync between host and device");
  return emu::record(work), cudaSuccess;
}
inline cudaError_t cudaMemcpy(void* to, const void* from, size_t n, cudaMemcpyKind) {
  if (cudaError_t e = allowed("cudaMemcpy")) return e;
  return memcpy(to, from, n), cudaSuccess;
}

enum cudaStreamCaptureMode { cudaStreamCaptureModeGlobal, cudaStreamCaptureModeThreadLocal };
enum cudaStreamCaptureStatus { cudaStreamCaptureStatusNone, cudaStreamCaptureStatusActive };
struct emu_graph {
  std::vector<std::function<int()>> work;
};
typedef emu_graph* cudaGraph_t;
typedef emu_graph* cudaGraphExec_t;
cudaError_t cudaStreamBeginCapture(cudaStream_t, cudaStreamCaptureMode);
cudaError_t cudaStreamEndCapture(cudaStream_t, cudaGraph_t* graph);  // null after an invalid capture
inline cudaError_t cudaStreamIsCapturing(cudaStream_t, cudaStreamCaptureStatus* status) {
  *status = emu::capturing() ? cudaStreamCaptureStatusActive : cudaStreamCaptureStatusNone;
  return cudaSuccess;
}
inline cudaError_t cudaGraphInstantiate(cudaGraphExec_t* exec, cudaGraph_t graph, unsigned long long = 0) {
  return *exec = new emu_graph(*graph), cudaSuccess;
}
inline cudaError_t cudaGraphLaunch(cudaGraphExec_t exec, cudaStream_t) {
  for (const auto& work : exec->work)
    if (int e = work()) return static_cast<cudaError_t>(e);
  return cudaSuccess;
}
inline cudaError_t cudaGraphDestroy(cudaGraph_t graph) { return delete graph, cudaSuccess; }
inline cudaError_t cudaGraphExecDestroy(cudaGraphExec_t exec) { return delete exec, cudaSuccess; }
