// The pool of threads, for the sanitizers: calls at once and within each other, errors, calls that nobody joins. Prints
// "ok" and the number of workers.
#include <atomic>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <mutex>
#include <set>
#include <thread>

#include "base/call_gauge.h"
#include "base/cores.h"
#include "base/interrupt.h"
#include "base/threads.h"
#include "check.h"

namespace {

using checking::require;

// Every number below n once, and indexes of threads that are in range and differ.
void count(int threads, int64_t n) {
  std::vector<std::atomic<int>> times(static_cast<size_t>(n));
  ccm::parallel_for(threads, n, [&](int64_t i) { ++times[i]; });
  for (const auto& t : times) require(t == 1, "an index that was not dealt out once");
  std::mutex mutex;
  std::set<int> indexes;
  ccm::run_threads(threads, [&](int index) {
    std::lock_guard<std::mutex> lock(mutex);
    require(index >= 0 && index < threads && indexes.insert(index).second, "a thread's index");
  });
  require(indexes.count(0) == 1, "the caller did not work");
}

void nested() {
  std::atomic<int64_t> sum{0};
  ccm::parallel_for(3, 20, [&](int64_t i) { ccm::parallel_for(2, 30, [&](int64_t k) { sum += i * k; }); });
  require(sum == 190 * 435, "a sum of calls within each other");
}

// Threads of each piece of work: one, and at the end what there is for those that are left over.
void sides() {
  const auto given = [](int threads, int64_t n) {
    std::vector<int> each(static_cast<size_t>(n));
    ccm::side_by_side(threads, n, [&](int64_t i, int t) { each[i] = t; });
    return each;
  };
  require(given(4, 0).empty() && given(2, 2) == std::vector<int>{1, 1}, "as many as threads");
  require(given(5, 2) == std::vector<int>{2, 2}, "fewer than threads");
  require(given(2, 3) == std::vector<int>{1, 1, 2} && given(4, 6) == std::vector<int>{1, 1, 1, 1, 2, 2}, "more");
}

// An error of the caller, or of a worker that has surely come: the caller waits for it.
void errors(bool in_worker) {
  std::atomic<int> come{0};
  bool caught = false;
  try {
    ccm::run_threads(2, [&](int index) {
      ++come;
      while (in_worker && come < 2) std::this_thread::yield();
      if ((index == 1) == in_worker) throw std::runtime_error("meant");
    });
  } catch (const std::runtime_error& error) {
    caught = error.what() == std::string("meant");
  }
  require(caught, "an error that did not reach the caller");
}

// Calls go without workers for a while where these bring next to nothing, beside what one thread gets alone.
void gauge() {
  using std::chrono::milliseconds;
  ccm::CallGauge bad, good, busy, blind;
  blind.note(true, milliseconds(100), milliseconds(0));
  require(blind.pays(), "a system without a clock of threads");
  bad.note(true, milliseconds(49), milliseconds(49));
  require(bad.pays(), "a measurement that is too short");
  bad.note(true, milliseconds(1), milliseconds(2));
  require(!bad.pays(), "help that brings nothing");
  good.note(true, milliseconds(60), milliseconds(90));
  require(good.pays(), "help that brings half a core");
  busy.note(false, milliseconds(20), milliseconds(10));
  busy.note(true, milliseconds(60), milliseconds(42));
  require(busy.pays(), "help beside several processes");
  bad.note(false, milliseconds(99), milliseconds(99));
  require(!bad.pays(), "help that is tried again too soon");
  bad.note(false, milliseconds(1), milliseconds(1));
  require(bad.pays(), "help that is not tried again");
}

void another_core() {
  const int before = ccm::current_core();
  ccm::leave_core();
  for (int k = 0; k < 2; ++k) ccm::leave_core();
  require((before < 0) == (ccm::current_core() < 0), "a core");
  const int64_t had = ccm::thread_nanoseconds();
  for (std::atomic<int> n{0}; n < 100000;) ++n;
  require(before < 0 || ccm::thread_nanoseconds() > had, "time on a core");
}

// A call whose caller works on where nobody comes, and sleeps where a worker has come.
void spin_and_sleep() {
  std::atomic<bool> come{false};
  ccm::run_threads(2, [&come](int index) {
    if (index) come = true;
    const int64_t end = ccm::thread_nanoseconds() + 100000;
    while (ccm::thread_nanoseconds() < end) {
    }
    if (!index && come) std::this_thread::sleep_for(std::chrono::microseconds(500));
  });
}

// Long calls get workers, whatever has been found of short ones, and also those that ask between their pieces.
void long_calls() {
  // On a busy machine some of these are too long to be measured.
  const auto latest = std::chrono::steady_clock::now() + std::chrono::seconds(20);
  while (ccm::current_core() >= 0 && ccm::likely_threads(2) > 1 && std::chrono::steady_clock::now() < latest)
    spin_and_sleep();
  require(ccm::likely_threads(1) == 1 && (ccm::current_core() < 0 || ccm::likely_threads(2) == 1),
          "calls that sleep have had help");
  std::atomic<int> come{0};
  ccm::run_threads(2, [&](int) {
    ++come;
    while (come < 2) std::this_thread::yield();
  });
  std::atomic<bool> over{false};
  ccm::run_threads(2, [&](int index) {
    const auto end = std::chrono::steady_clock::now() + std::chrono::milliseconds(50);
    while (!over && std::chrono::steady_clock::now() < end)
      std::this_thread::sleep_for(std::min(ccm::rest_from_call(index == 0), std::chrono::microseconds(1000)));
    over = true;
  });
}

// Polls until that throws; false where it has not for a long time.
bool cancelled() {
  const auto end = std::chrono::steady_clock::now() + std::chrono::seconds(20);
  try {
    while (std::chrono::steady_clock::now() < end) ccm::poll(), std::this_thread::yield();
  } catch (const ccm::Interrupted&) {
    return true;
  }
  return false;
}

// Where one thread fails, the other one is told, whichever is the caller's, and whoever works for it on a call within.
void failures_end_work(int failing) {
  std::atomic<int> come{0}, told{0};
  bool caught = false;
  try {
    ccm::run_threads(2, [&](int index) {
      if (index == failing) {
        while (come < 2) std::this_thread::yield();
        throw std::runtime_error("meant");
      }
      ccm::run_threads(2, [&](int) {
        ++come;
        while (come < 2) std::this_thread::yield();
        told += cancelled();
      });
    });
  } catch (const std::runtime_error&) {
    caught = true;
  }
  require(caught && told == 2, "work that goes on for a call that has failed");
  ccm::poll();  // a call that is over has nothing to say
}

}  // namespace

int main(int argc, char** argv) {
  try {
    const int rounds = argc > 1 ? std::atoi(argv[1]) : 100;
    require(ccm::pool_workers() == 0, "workers before the first call");
    errors(true);
    require(ccm::pool_workers() == 1, "one worker of a call of two threads");
    for (int r = 0; r < rounds; ++r) failures_end_work(r % 2);
    sides();
    gauge();
    another_core();
    long_calls();
    std::vector<std::thread> callers;
    for (int c = 0; c < 3; ++c)
      callers.emplace_back([=] {
        for (int r = 0; r < rounds; ++r) count(1 + (c + r) % 4, r), nested(), errors(r % 2);
      });
    for (std::thread& t : callers) t.join();
    const int workers = ccm::pool_workers();
    for (int r = 0; r < rounds; ++r) count(2, r);
    require(ccm::pool_workers() == workers, "workers that were started anew");
    std::printf("ok %d\n", workers);
    return 0;
  } catch (const std::exception& error) {
    std::fprintf(stderr, "%s\n", error.what());
    return 1;
  }
}
