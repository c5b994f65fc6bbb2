// One optimizer's memory: its step count, its state, and the plan of its last update.
#pragma once
#include <array>
#include <atomic>
#include <cstdint>
#include <map>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

#include "plan.hpp"
#include "team.hpp"

namespace schuss {

class Engine {
 public:
  // slots: the names of the rule's state arrays, in the order in which the rule takes them.
  Engine(const std::string& rule, const py::tuple& slots);

  // One step. `optimizer` is asked for the scalars of step t, `_scalars(lr, t)`, with its `lr` or `_lr_at(t)`; and
  // for the state of a parameter that it has not met, `_new_state(p)`. All checks and all allocation come before the
  // first write.
  void update(const py::object& optimizer, const py::object& params, const py::object& grads);

  // The same, and how many nanoseconds each part of it took: for the benchmark.
  std::map<std::string, int64_t> profile(const py::object& optimizer, const py::object& params,
                                         const py::object& grads);

  int64_t t() const { return t_; }
  py::dict state() const { return state_; }  // name -> {slot -> array}

 private:
  // One update at a time. Waiting for another thread's update is done without the GIL, which that one needs.
  class Turn {
   public:
    explicit Turn(Engine& engine);
    ~Turn();

   private:
    Engine& engine_;
  };

  // lap(name) is called at the end of each part.
  template <class Lap>
  void step(const py::object& optimizer, const py::object& params, const py::object& grads, Lap lap);

  void ask_scalars(const py::object& optimizer, std::array<double, max_scalars>& scalars) const;
  std::vector<py::object> state_of(const py::object& optimizer, const Entry& entry, py::dict& fresh) const;

  const Kernel& kernel_;
  const py::tuple slots_;
  int64_t t_ = 0;
  py::dict state_;
  std::vector<Entry> entries_;
  Plan plan_;
  team::Pace pace_;
  std::mutex mutex_;
  std::atomic<std::thread::id> owner_{};
};

// The kernels of the ISA that was chosen at import.
const Kernel& find_kernel(const std::string& rule);

}  // namespace schuss
