// Letting go of the GIL for a while, in a way that survives the interpreter's end.
#pragma once
#include <Python.h>

#include <chrono>
#include <thread>

namespace schuss {

// Where the interpreter has ended meanwhile, taking the GIL back ends the thread (until Python 3.13) by an unwinding
// that no destructor lets through: the process would abort. Nor may it go on without the GIL. So it stays here, as in
// later Pythons, until the process is gone: only daemon threads outlive the interpreter.
class WithoutGil {
 public:
  WithoutGil() : state_(PyEval_SaveThread()) {}
  WithoutGil(const WithoutGil&) = delete;
  WithoutGil& operator=(const WithoutGil&) = delete;
  ~WithoutGil() {
    try {
      PyEval_RestoreThread(state_);
    } catch (...) {
      for (;;) std::this_thread::sleep_for(std::chrono::hours(1));
    }
  }

 private:
  PyThreadState* state_;
};

}  // namespace schuss
