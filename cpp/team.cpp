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

// A trial of the team ends after so many calls and nanoseconds, one of the caller alone after so many calls; the next
// one begins after that many, which double with each that was in vain. The first calls after a turn tell nothing.
constexpr unsigned unsettled = 2, trial_calls = 4, first_calls = 16, most_rounds = 6;
constexpr int64_t trial_time = 20'000'000;

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
    *this = Pace{};  // the team first, so that new memory lies where it will be used
    bytes_ = bytes;
  }
  timed_ = true;
  const unsigned due = expected_[!teamed_] == 0 ? trial_calls : first_calls << rounds_;
  if (!trying_ && calls_ >= due && (due == trial_calls || spent_ >= trial_time << rounds_)) turn(true);
  ++calls_;
  return teamed_ ? allowed : 1;
#else
  static_cast<void>(bytes);
  return 1;
#endif
}

void Pace::turn(bool trying) {
  teamed_ = !teamed_;
  trying_ = trying;
  calls_ = 0;
  spent_ = 0;
  if (trying) expected_[teamed_] = 0;  // what it once was says nothing about now
}

// Follows a faster time at once and a slower one by an eighth, of what is expected at most, as it may be another
// process's doing: a call that the system has held up for a millisecond says nothing about the next one. After a turn
// to the team slower ones do not count for the time of a trial.
void Pace::took(int64_t nanoseconds) {
  if (!timed_) return;
  spent_ += nanoseconds;
  if (calls_ <= unsettled) return;
  const auto time = static_cast<double>(nanoseconds);
  double& expected = expected_[teamed_];
  const double other = expected_[!teamed_];
  const bool patient = teamed_ && spent_ < trial_time;
  if (expected == 0 || time < expected)
    expected = time;
  else if (!patient)
    expected += std::min(time - expected, expected) / 8;
  if (other == 0) return;
  if (trying_ && expected < other) {
    trying_ = false;
    rounds_ = 0;
  } else if (trying_ && calls_ >= trial_calls && !patient) {
    turn(false);
    rounds_ = std::min(rounds_ + 1, most_rounds);
  } else if (!trying_ && expected > other) {
    turn(false);
    rounds_ = 0;
  }
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
