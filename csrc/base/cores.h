// On which core a thread runs, and how long it has had one.
#pragma once
#include <cstdint>

namespace ccm {

// This thread's core, or -1 where the system does not say.
int current_core();

// Moves this thread to any other core that it may use; does nothing where there is none. It may come back later.
void leave_core();

// Nanoseconds for which this thread has had a core; 0 where the system does not say.
int64_t thread_nanoseconds();

}  // namespace ccm
