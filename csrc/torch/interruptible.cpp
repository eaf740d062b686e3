// Python is looked up when it is needed, and not linked: the library also loads in C++ programs that have none. The
// functions are of Python's stable ABI.
#include "torch/interruptible.h"

#include <dlfcn.h>
#include <unistd.h>
#if defined(__linux__)
#include <sys/syscall.h>
#elif defined(__APPLE__)
#include <pthread.h>
#endif

namespace ccm_ops {
namespace {

struct Python {
  int (*is_initialized)() = nullptr;
  int (*gil_ensure)() = nullptr;  // PyGILState_STATE is an enumeration
  void (*gil_release)(int) = nullptr;
  int (*check_signals)() = nullptr;
  void (*fetch)(void**, void**, void**) = nullptr;
  void (*restore)(void*, void*, void*) = nullptr;
  int (*add_pending_call)(int (*)(void*), void*) = nullptr;
  bool found = false;

  Python() {
    found = look_up(is_initialized, "Py_IsInitialized") && look_up(gil_ensure, "PyGILState_Ensure") &&
            look_up(gil_release, "PyGILState_Release") && look_up(check_signals, "PyErr_CheckSignals") &&
            look_up(fetch, "PyErr_Fetch") && look_up(restore, "PyErr_Restore") &&
            look_up(add_pending_call, "Py_AddPendingCall");
  }

  template <class F>
  static bool look_up(F& function, const char* name) {
    function = reinterpret_cast<F>(dlsym(RTLD_DEFAULT, name));
    return function != nullptr;
  }
};

const Python& python() {
  static const Python functions;
  return functions;
}

// Handlers run in Python's main thread alone. Others do not ask: one that waits for the lock while its holder waits for
// it would never end.
bool first_thread() {
#if defined(__linux__)
  return syscall(SYS_gettid) == getpid();
#elif defined(__APPLE__)
  return pthread_main_np() != 0;
#else
  return false;
#endif
}

// The exception that a handler has raised. Only Python's main thread touches it.
struct {
  void *type = nullptr, *value = nullptr, *traceback = nullptr;
} kept;

int restore_kept(void*) {
  if (!kept.type) return 0;
  python().restore(kept.type, kept.value, kept.traceback);
  kept = {};
  return -1;
}

}  // namespace

bool handler_raised() {
  if (!first_thread() || !python().found || !python().is_initialized()) return false;
  const int state = python().gil_ensure();
  const bool raised = python().check_signals() != 0;
  if (raised) python().fetch(&kept.type, &kept.value, &kept.traceback);
  python().gil_release(state);
  return raised;
}

void raise_kept() {
  const int state = python().gil_ensure();
  python().add_pending_call(restore_kept, nullptr);
  python().gil_release(state);
}

}  // namespace ccm_ops
