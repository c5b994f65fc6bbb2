// Thread counts, the parallel region and the fork guard.
#include "team.hpp"

#include <algorithm>
#include <atomic>
#include <stdexcept>

#ifdef _OPENMP
#include <omp.h>
#endif
#ifndef _WIN32
#include <dlfcn.h>
#include <pthread.h>
#endif

namespace team {
namespace {

std::atomic<int> most{1};
std::atomic<size_t> fewest_bytes{0};

// Traffic below which a team was never faster, and above which the work is the memory's and a team never slower:
// measured with Adam on 2 cores of a Zen 5. There the region alone takes 2 us, and 40 us if the threads sleep.
constexpr size_t always_alone = size_t{256} << 10, always_team = size_t{512} << 20;
constexpr unsigned first_interval = 16, last_interval = 1024;

// After fork() the child has none of the parent's OpenMP threads, but libgomp still waits for them. So a
// child of a process that has run a team stays serial. Only flags are touched here: it is a signal-safe place.
std::atomic<bool> used{false}, orphaned{false};
std::atomic<unsigned> forked{0};

#ifndef _WIN32
void after_fork() {
  orphaned = used.load();
  ++forked;
}
const int registered = pthread_atfork(nullptr, nullptr, after_fork);
#endif

// OpenMP's own limit as it was at first. Where it is lower now, someone (threadpoolctl, omp_set_num_threads) has asked
// for fewer threads in this process, and is heeded; set_threads() and the environment have been heeded before.
int now_allowed() {
#ifdef _OPENMP
  static const int at_first = omp_get_max_threads();
  const int now = omp_get_max_threads();
  return now < at_first ? std::min(now, most.load()) : most.load();
#else
  return 1;
#endif
}

}  // namespace

void check_threads(int threads) {
  if (threads < 1 || threads > most_threads)
    throw std::invalid_argument("threads must be from 1 to " + std::to_string(most_threads) + ", got " +
                                std::to_string(threads));
}

void set_threads(int threads) {
  check_threads(threads);
  now_allowed();
  most = threads;
}
int threads() { return most; }
void set_grain(size_t bytes) { fewest_bytes = bytes; }
size_t grain() { return fewest_bytes; }
unsigned forks() { return forked; }

std::string openmp() {
#ifndef _OPENMP
  return "none";
#else
  const std::string version = " (OpenMP " + std::to_string(_OPENMP) + ")";
#ifndef _WIN32
  Dl_info where;
  if (dladdr(reinterpret_cast<void*>(&omp_get_max_threads), &where) && where.dli_fname) {
    const std::string path = where.dli_fname;
    return path.substr(path.rfind('/') + 1) + version;
  }
#endif
  return "OpenMP runtime" + version;
#endif
}

int Pace::size_for(size_t bytes) { return last_size_ = choose(bytes); }

int Pace::choose(size_t bytes) {
  timed_ = false;
#ifdef _OPENMP
  if (orphaned || omp_in_parallel()) return 1;
  if (!fewest_bytes && bytes < always_alone) return 1;
  const int allowed = now_allowed();
  if (fewest_bytes) return static_cast<int>(std::clamp<size_t>(bytes / fewest_bytes, 1, static_cast<size_t>(allowed)));
  if (allowed == 1 || bytes >= always_team) return allowed;
  if (bytes != bytes_) {
    *this = Pace{};
    bytes_ = bytes;
    probe_at_ = 4;
    probe_interval_ = first_interval;
  }
  timed_ = true;
  const bool before = teamed_;
  if (calls_ < 4) {
    teamed_ = calls_ < 2;  // the team first, so that new memory lies where it will be used
  } else {
    const bool probing = calls_ >= probe_at_;
    teamed_ = probing ? !team_faster_ : team_faster_;
    if (calls_ == probe_at_ + 1) {
      probe_at_ += probe_interval_;
      probe_interval_ = std::min(2 * probe_interval_, last_interval);
    }
  }
  settled_ = calls_ > 0 && teamed_ == before;  // a first call wakes the others up, or fetches from their caches
  ++calls_;
  return teamed_ ? allowed : 1;
#else
  static_cast<void>(bytes);
  return 1;
#endif
}

// Follows a faster time at once and a slower one by an eighth, as it may be another process's doing.
void Pace::took(int64_t nanoseconds) {
  if (!timed_ || !settled_) return;
  const auto time = static_cast<double>(nanoseconds);
  double& expected = expected_[teamed_];
  expected = expected == 0 || time < expected ? time : expected + (time - expected) / 8;
  const bool faster = expected_[1] < expected_[0];
  if (faster != team_faster_) probe_interval_ = first_interval;
  team_faster_ = faster;
}

void run(int size, Body body, void* context) {
#ifdef _OPENMP
  if (size > 1) {
    used = true;
#pragma omp parallel num_threads(size)
    body(context, omp_get_thread_num(), omp_get_num_threads());
    return;
  }
#endif
  static_cast<void>(size);
  body(context, 0, 1);
}

// A body of one thread may stand within someone else's region, whose other threads never come here.
void meet(int size) {
#ifdef _OPENMP
  if (size > 1) {
#pragma omp barrier
  }
#endif
  static_cast<void>(size);
}

}  // namespace team
