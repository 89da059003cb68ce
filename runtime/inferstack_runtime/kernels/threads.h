// A team of threads that runs one function together; barriers and shared work counters between its phases.
//
// Waiting threads spin for a moment, then yield, and between jobs finally sleep: with two cores the thread that serves the network must
// get its time at once, and a barrier is passed some hundred times per step.
#pragma once
#include <sched.h>

#include <atomic>
#include <chrono>
#include <condition_variable>
#include <functional>
#include <mutex>
#include <thread>
#include <vector>

#include "simd.h"

namespace {

INLINE void pause_cpu() {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#elif defined(__aarch64__)
  asm volatile("yield");
#endif
}

class Team {
 public:
  explicit Team(int size) : size_(size < 1 ? 1 : size > MAX_THREADS ? MAX_THREADS : size) {
    for (int i = 1; i < size_; i++) workers_.emplace_back([this, i] { work(i); });
  }
  ~Team() {
    {
      std::lock_guard<std::mutex> lock(mutex_);
      stop_ = true;
      jobs_.fetch_add(1);
    }
    wake_.notify_all();
    for (auto& worker : workers_) worker.join();
  }
  int size() const { return size_; }

  // Run `job(thread)` on every thread, the caller being thread 0; returns when all are done.
  void run(const std::function<void(int)>& job) {
    job_ = &job;
    phase_.store(0);
    for (int phase = 0; phase < PHASES; phase++) reset(phase);
    if (size_ > 1) {
      jobs_.fetch_add(1);
      if (asleep_.load()) {
        std::lock_guard<std::mutex> lock(mutex_);
        wake_.notify_all();
      }
    }
    job(0);
    wait_for_all();
  }

  // What one thread knows of the phases of a job.
  struct Local {
    int phase = 0;
  };

  // Units 0..count-1 of the current phase, then a barrier. Each thread works through its own range, so that it reads memory forward and
  // finds in its cache what it held before; then it takes what is left of the others'.
  template <class F>
  INLINE void share(Local& local, int thread, int count, const F& unit) {
    if (size_ == 1) {
      for (int i = 0; i < count; i++) unit(i);
      return;
    }
    for (int i = 0; i < size_; i++) {
      const int owner = thread + i < size_ ? thread + i : thread + i - size_;
      const int first = (int)((int64_t)count * owner / size_), last = (int)((int64_t)count * (owner + 1) / size_);
      auto& taken = counters_[local.phase % PHASES][owner].taken;
      if (i && taken.load(std::memory_order_relaxed) >= last - first) continue;
      for (int next; (next = first + taken.fetch_add(1, std::memory_order_relaxed)) < last;) unit(next);
    }
    barrier(local);
  }

  void barrier(Local& local) {
    if (size_ == 1) return;
    const int phase = local.phase++;
    if (arrived_.fetch_add(1, std::memory_order_acq_rel) == size_ - 1) {
      arrived_.store(0, std::memory_order_relaxed);
      reset((phase + 2) % PHASES);
      phase_.store(phase + 1, std::memory_order_release);
      return;
    }
    for (int spins = 0; phase_.load(std::memory_order_acquire) <= phase; spins++) spins < 4000 ? pause_cpu() : (void)sched_yield();
  }

 private:
  static constexpr int MAX_THREADS = 256, PHASES = 4;
  struct alignas(64) Counter {
    std::atomic<int> taken{0};
  };

  void reset(int phase) {
    for (int i = 0; i < size_; i++) counters_[phase][i].taken.store(0, std::memory_order_relaxed);
  }

  void wait_for_all() {
    if (size_ == 1) return;
    for (int spins = 0; done_.load(std::memory_order_acquire) < size_ - 1; spins++) spins < 4000 ? pause_cpu() : (void)sched_yield();
    done_.store(0, std::memory_order_relaxed);
  }

  void work(int thread) {
    uint64_t seen = 0;
    for (;;) {
      const auto start = std::chrono::steady_clock::now();
      for (int spins = 0; jobs_.load(std::memory_order_acquire) == seen; spins++) {
        if (spins < 500) {
          pause_cpu();
          continue;
        }
        sched_yield();
        if (std::chrono::steady_clock::now() - start < std::chrono::microseconds(200)) continue;
        std::unique_lock<std::mutex> lock(mutex_);
        asleep_.fetch_add(1);
        wake_.wait(lock, [&] { return jobs_.load() != seen; });
        asleep_.fetch_sub(1);
      }
      seen++;
      if (stop_) return;
      (*job_)(thread);
      done_.fetch_add(1, std::memory_order_release);
    }
  }

  const int size_;
  std::vector<std::thread> workers_;
  const std::function<void(int)>* job_ = nullptr;
  bool stop_ = false;
  std::mutex mutex_;
  std::condition_variable wake_;
  alignas(64) std::atomic<uint64_t> jobs_{0};
  alignas(64) std::atomic<int> asleep_{0};
  alignas(64) std::atomic<int> arrived_{0};
  alignas(64) std::atomic<int> phase_{0};
  alignas(64) std::atomic<int> done_{0};
  Counter counters_[PHASES][MAX_THREADS];
};

}  // namespace
