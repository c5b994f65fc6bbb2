// The threads of an update: how many, and the one OpenMP region they run in.
#pragma once
#include <cstddef>
#include <cstdint>
#include <string>

namespace team {

// The most threads an update may use. More than `most_threads` no runtime can be trusted to start: libgomp puts some
// bytes for each on the caller's stack. check_threads() throws where a number is below 1 or above that.
constexpr int most_threads = 1024;
void check_threads(int threads);
void set_threads(int threads);
int threads();

// The fewest bytes of memory traffic worth one thread; 0, as at first, leaves that to each optimizer's Pace.
void set_grain(size_t bytes);
size_t grain();

// The OpenMP runtime's name, or "none" where the build has none: everything then runs serial.
std::string openmp();

// Chooses between the caller's thread alone and all threads, for work that comes again and again.
//
// Between updates the other threads fall asleep, or NumPy's BLAS keeps their cores busy: then waking them costs
// more than a small update takes. Where updates follow one another they are awake, and pay. Which of the two it is
// shows only in the time taken. So middling work is timed both ways, the faster way is kept, and the other one is
// tried again, less and less often. A trial of the team has patience: the first calls tell how long the arrays' way
// from one core's cache to the other's takes, and a thread that was woken may share the caller's core until the system
// moves it, after 3 to 16 ms. The result does not depend on the choice, bit for bit.
class Pace {
 public:
  int size_for(size_t bytes);
  void took(int64_t nanoseconds);  // the work that the last size_for() was asked for
  int last_size() const { return last_size_; }

 private:
  int choose(size_t bytes);
  void turn(bool trying);

  int last_size_ = 1;
  size_t bytes_ = 0;
  double expected_[2] = {0, 0};  // nanoseconds, alone and in the team; 0: not known
  bool timed_ = false, teamed_ = true, trying_ = false;
  unsigned calls_ = 0;   // since the last turn from one way to the other,
  int64_t spent_ = 0;    // and nanoseconds
  unsigned rounds_ = 0;  // trials without success, one after the other
};

// How many forks lie between this process and the one that loaded the library.
unsigned forks();

// body(rank, size) on `size` threads at most: the caller's thread alone where size is 1.
using Body = void (*)(void* context, int rank, int size);
void run(int size, Body body, void* context);

// Within such a body of `size` threads: all wait until each has come here.
void meet(int size);

// The same with anything that can be called.
template <class Call>
void each_rank(int size, const Call& call) {
  run(
      size, [](void* given, int rank, int of) { (*static_cast<const Call*>(given))(rank, of); },
      const_cast<void*>(static_cast<const void*>(&call)));
}

}  // namespace team
