// Thread counts, the parallel region and the fork guard.
#include "team.hpp"

#include <algorithm>
#include <atomic>

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
std::atomic<size_t> fewest_bytes{size_t{4} << 20};

// After fork() the child has none of the parent's OpenMP threads, but libgomp still waits for them. So a
// child of a process that has run a team stays serial. Only flags are touched here: it is a signal-safe place.
std::atomic<bool> used{false}, orphaned{false};

#if defined(_OPENMP) && !defined(_WIN32)
void after_fork() { orphaned = used.load(); }
const int registered = pthread_atfork(nullptr, nullptr, after_fork);
#endif

}  // namespace

void set_threads(int threads) { most = threads; }
int threads() { return most; }
void set_grain(size_t bytes) { fewest_bytes = bytes; }
size_t grain() { return fewest_bytes; }

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

int size_for(size_t bytes) {
#ifdef _OPENMP
  if (orphaned || omp_in_parallel()) return 1;
  const size_t worth = std::max<size_t>(1, bytes / std::max<size_t>(1, fewest_bytes));
  return static_cast<int>(std::min<size_t>(worth, static_cast<size_t>(most)));
#else
  static_cast<void>(bytes);
  return 1;
#endif
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

}  // namespace team
