// One optimizer's memory: its step count, its state, and the plan of its last update.
#pragma once
#include <atomic>
#include <cstdint>
#include <map>
#include <mutex>
#include <string>
#include <vector>

#include "plan.hpp"
#include "team.hpp"

namespace schuss {

class Engine {
 public:
  // slots: the names of the rule's state arrays, in the order in which the rule takes them; one more if `averaged`.
  Engine(const std::string& rule, const py::tuple& slots, bool averaged);

  // One step. All checks and all allocation come before the first write. The optimizer is
  // asked:
  //   _scalars(lr, t)      the scalars of step t, with its `lr` or `_lr_at(t)`, where it is plain; elsewhere:
  //   _orders(t)           what else to do, and the scalars of each group
  //   _groups_of(names, params)
  //                        the number of each parameter's group
  //   _new_state(name, p)  the state of a parameter that it has not met
  //   _ratio(name, slots, p_norm, scalars), _commit()
  //                        the ratio of a rule whose second half needs Python, then that it was taken
  void update(const py::object& optimizer, const py::object& params, const py::object& grads, double grad_scale);

  // The same, and how many nanoseconds each part of it took: for the benchmark.
  std::map<std::string, int64_t> profile(const py::object& optimizer, const py::object& params,
                                         const py::object& grads);

  // One thread at a time is within: for an update, or to change what updates go by, which it may do in several steps.
  // `purpose` is for the error where the optimizer's own update, through a function that it calls, would go in again.
  void enter(const char* purpose);
  void leave();

  // What follows is only called from within, or before other threads know of the optimizer.
  // Goes on from a saved step: its count, how many were skipped, and the state by name and slot.
  void restore(int64_t t, int64_t skipped_before, const py::dict& state);
  void forget_plan() { plan_.forget(); }  // what `_groups_of` says has changed
  bool plain() const { return plain_; }
  void set_plain(bool plain);

  // What follows may be asked by any thread at any time.
  int64_t t() const { return t_; }
  int64_t skipped() const { return skipped_; }  // updates that were not made, as a gradient was not finite
  py::object last_nonfinite() const { return last_nonfinite_[0]; }  // the first such gradient's name, the last time
  py::object last_grad_norm() const;                                // of the last update that needed it, or None
  py::dict state() const { return state_.attr("copy")(); }          // name -> {slot -> array}

 private:
  enum class OnNonfinite { propagate, skip, raise };

  // What a step that is not plain does before its first write.
  struct Caution {
    double clip_norm = 0;  // 0: none
    OnNonfinite on_nonfinite = OnNonfinite::propagate;
    bool survey() const { return clip_norm > 0 || on_nonfinite != OnNonfinite::propagate; }
  };

  // lap(name) is called at the end of each part.
  template <class Lap>
  void step(const py::object& optimizer, const py::object& params, const py::object& grads, double grad_scale, Lap lap);

  void ask_scalars(const py::object& optimizer, std::array<double, max_scalars>& scalars) const;
  Caution ask_orders(const py::object& optimizer);
  std::vector<py::object> state_of(const py::object& optimizer, const Entry& entry, py::dict& fresh) const;
  // The state that it has made, by name; no object where there was none to be made.
  py::object make_plan(const py::object& optimizer, const py::object& params);
  bool heed(const Caution& caution, int threads);
  void set_ratios(const py::object& optimizer, const std::vector<Plan::Norms>& norms, const py::object& fresh);

  const Kernel& kernel_;
  const py::tuple slots_;
  std::atomic<int64_t> t_{0}, skipped_{0};
  std::atomic<double> last_grad_norm_{-1};  // below 0: none
  const py::list last_nonfinite_;           // of one, as a list is safe where threads run without a GIL
  const py::dict state_;
  const py::object lr_name_, lr_at_name_, scalars_name_;
  bool plain_ = true;  // neither options nor groups: nothing to ask for but scalars
  std::vector<Entry> entries_;
  Orders orders_;
  Plan plan_;
  team::Pace pace_;
  std::recursive_mutex mutex_;
  bool updating_ = false;
  std::atomic<unsigned> forks_{0};  // as they were when the mutex was last taken
};

// One step of a rule on one array, with state and scalars of the caller's. `ratio` is asked as `_ratio` above is.
void step_once(const std::string& rule, const py::tuple& scalars, const py::object& p, const py::object& g,
               const py::tuple& slots, const py::object& ratio);

}  // namespace schuss
