// Operators that a signal ends: Ctrl-C, or any signal whose Python handler raises. Only for csrc/torch.
#pragma once
#include <torch/csrc/stable/library.h>

#include <utility>

#include "base/interrupt.h"

namespace ccm_ops {

// Runs the handlers of signals that wait; true if one has raised, whose exception is kept for raise_kept(). False in
// other threads than the process's first, and in programs without Python.
bool handler_raised();

// Lets Python's main thread raise the kept exception as soon as it is back from the operator.
void raise_kept();

template <auto function>
struct Interruptible;

template <class Result, class... Arguments, Result (*function)(Arguments...)>
struct Interruptible<function> {
  // What `function` gives; if it is interrupted an empty result, which Python never sees, since it raises first.
  static Result call(Arguments... arguments) {
    const ccm::InterruptScope scope([](double) { return handler_raised(); });
    try {
      return function(std::move(arguments)...);
    } catch (const ccm::Interrupted&) {
      raise_kept();
      return Result();
    }
  }
};

}  // namespace ccm_ops

// As TORCH_BOX, for operators that may take long.
#define CCM_INTERRUPTIBLE(function) TORCH_BOX(&ccm_ops::Interruptible<function>::call)
