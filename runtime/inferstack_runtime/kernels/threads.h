// A team of threads that works through the phases of a job together.
//
// A phase is over when all its units are done, not when all threads have arrived: on two cores a thread is often off the CPU because the
// network's thread or a client has it, and nobody must wait for a thread that holds no work. A late thread skips what is over. Waiting
// threads spin for a moment, then yield, and between jobs finally sleep.
#pragma once
#include <sched.h>

#include <atomic>
#include <chrono>
#include <condition_variable>
#include <functional>
#include <memory>
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
  // Where one thread stands: the job, and how many of its phases are behind it.
  struct Place {
    int thread;
    uint64_t job, phase = 0;
  };

  // `work(place)` calls `share` for each phase and returns as soon as that gives false. All threads must come to the same phases.
  // Outside of units it may read only what is constant or atomic, because a late thread may be there while the next job is prepared.
  Team(int size, std::function<void(Place&)> work) : size_(size < 1 ? 1 : size > 256 ? 256 : size), work_(std::move(work)), claims_(new Claim[(size_t)size_]) {
    for (int i = 1; i < size_; i++) workers_.emplace_back([this, i] { attend(i); });
  }
  ~Team() {
    stop_.store(true);
    open((job_ + 1) << PHASE_BITS);
    {
      std::lock_guard<std::mutex> lock(mutex_);
    }
    wake_.notify_all();
    for (auto& worker : workers_) worker.join();
  }
  int size() const { return size_; }

  // Run one job; the caller is thread 0. Returns when all phases are over, whether or not every thread has noticed.
  void run() {
    job_ = (job_ + 1) & JOB_MASK;
    open(job_ << PHASE_BITS);
    if (size_ > 1 && asleep_.load()) {
      {
        std::lock_guard<std::mutex> lock(mutex_);
      }
      wake_.notify_all();
    }
    Place place{0, job_};
    work_(place);
  }

  // Units 0..count-1 of the next phase. Each thread works through its own range, so that it reads memory forward and finds in its cache
  // what it held before; then it takes what is left of the others'. False when the job is over.
  template <class F>
  INLINE bool share(Place& place, int count, const F& unit) {
    if (count <= 0) return true;
    const uint64_t key = place.job << PHASE_BITS | place.phase++;
    if (size_ == 1) {
      for (int i = 0; i < count; i++) unit(i);
      return true;
    }
    for (int i = 0; i < size_; i++) {
      const int owner = place.thread + i < size_ ? place.thread + i : place.thread + i - size_;
      const int first = (int)((int64_t)count * owner / size_), range = (int)((int64_t)count * (owner + 1) / size_) - first;
      for (int taken; (taken = claim(claims_[(size_t)owner].value, key, range)) >= 0;) {
        unit(first + taken);
        if (done_.fetch_add(1, std::memory_order_acq_rel) + 1 == count) open(key + 1);
      }
    }
    uint64_t now;
    for (int spins = 0; (now = key_.load(std::memory_order_acquire)) == key; spins++) spins < 2000 ? pause_cpu() : (void)sched_yield();
    return now >> PHASE_BITS == place.job;
  }

 private:
  static constexpr int PHASE_BITS = 16, INDEX_BITS = 24;
  static constexpr uint64_t JOB_MASK = (1u << 24) - 1;
  struct alignas(64) Claim {
    std::atomic<uint64_t> value{0};  // the phase's key, and how many units of the owner's range are taken
  };

  static INLINE int claim(std::atomic<uint64_t>& value, uint64_t key, int range) {
    uint64_t seen = value.load(std::memory_order_acquire);
    for (;;) {
      const int taken = (int)(seen & ((1u << INDEX_BITS) - 1));
      if (seen >> INDEX_BITS != key || taken >= range) return -1;
      if (value.compare_exchange_weak(seen, seen + 1, std::memory_order_acq_rel, std::memory_order_acquire)) return taken;
    }
  }

  void open(uint64_t key) {
    done_.store(0, std::memory_order_relaxed);
    for (int i = 0; i < size_; i++) claims_[(size_t)i].value.store(key << INDEX_BITS, std::memory_order_release);
    key_.store(key);
  }

  void attend(int thread) {
    uint64_t seen = 0;
    for (;;) {
      const auto start = std::chrono::steady_clock::now();
      uint64_t job;
      for (int spins = 0; (job = key_.load(std::memory_order_acquire) >> PHASE_BITS) == seen; spins++) {
        if (spins < 500) {
          pause_cpu();
          continue;
        }
        sched_yield();
        if (std::chrono::steady_clock::now() - start < std::chrono::microseconds(200)) continue;
        std::unique_lock<std::mutex> lock(mutex_);
        asleep_.fetch_add(1);
        wake_.wait(lock, [&] { return key_.load() >> PHASE_BITS != seen; });
        asleep_.fetch_sub(1);
      }
      if (stop_.load()) return;
      seen = job;
      Place place{thread, job};
      work_(place);
    }
  }

  const int size_;
  const std::function<void(Place&)> work_;
  const std::unique_ptr<Claim[]> claims_;
  std::vector<std::thread> workers_;
  uint64_t job_ = 0;
  std::atomic<bool> stop_{false};
  std::mutex mutex_;
  std::condition_variable wake_;
  alignas(64) std::atomic<uint64_t> key_{0};
  alignas(64) std::atomic<int> asleep_{0};
  alignas(64) std::atomic<int> done_{0};
};

}  // namespace
