#include "base/threads.h"

#include <atomic>
#include <exception>
#include <mutex>
#include <thread>
#include <vector>

namespace ccm {

void run_threads(int threads, const std::function<void(int)>& work) {
  if (threads <= 1) return work(0);
  std::exception_ptr error;
  std::mutex mutex;
  auto guarded = [&](int t) {
    try {
      work(t);
    } catch (...) {
      std::lock_guard<std::mutex> lock(mutex);
      if (!error) error = std::current_exception();
    }
  };
  std::vector<std::thread> pool;
  try {
    for (int t = 1; t < threads; ++t) pool.emplace_back(guarded, t);
  } catch (const std::exception&) {
    // The system gives no more threads, or no memory for them: those that there are do the work.
  }
  guarded(0);
  for (std::thread& t : pool) t.join();
  if (error) std::rethrow_exception(error);
}

void parallel_for(int threads, int64_t n, const std::function<void(int64_t)>& body) {
  std::atomic<int64_t> next{0};
  run_threads(static_cast<int>(n < threads ? n : threads), [&](int) {
    for (int64_t i; (i = next.fetch_add(1)) < n;) body(i);
  });
}

}  // namespace ccm
