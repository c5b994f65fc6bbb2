// One optimizer's memory: its step count, its state, and the plan of its last update.
#pragma once
#include <atomic>
#include <cstdint>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <thread>
#include <tuple>
#include <utility>
#include <vector>

#include "entries.hpp"
#include "passes.hpp"
#include "plan.hpp"
#include "ranks.hpp"
#include "rows.hpp"
#include "team.hpp"

namespace schuss {

class Engine {
 public:
  // Parameters and gradients are arrays, or, where that is said, may be tensors.
  explicit Engine(bool tensors);

  // One step. All checks and all allocation come before the first write, and so does every call of Python code. The
  // optimizer is asked:
  //   _structures()        which rule each group has, and which state it keeps (see below), if that may have changed
  //   _orders()            what to do beside the rule, for each group, if that may have changed; where it is to clear
  //                        the gradients no two of them may share memory
  //   _scalars(lr, t)      the scalars of step t, with its `lr` or `_lr_at(t)`; and so each of its `_members`, which
  //                        have the arguments of the groups
  //   _groups.numbers_of(names, params)
  //                        the number of each parameter's group, where there are any
  //   _make_state(name, p) the state of a parameter that it has not met
  //   _place_of(name)      of one that has fewer bits than it is computed with, in itself or its state: its number and
  //                        its first element's place, by which random numbers go, and whether it is to have a master
  //   _workspace(name, p)  the array through which the two halves of a rule meet
  //   _ratios(scalars, workspaces)
  //                        the ratios of a rule whose second half needs Python, for what its group has of parameters;
  //                        and so each of its `_members`
  //   _step_in_numpy(p, g, state, group, lr, scale, shrink, pending)
  //                        the whole step of a parameter, by a rule of the user's; all that it changes is `pending`, a
  //                        list of pairs of arrays (kept, new) to which it adds: the new one is copied into the kept
  //                        one when the step is taken; and a float's new value is returned
  void update(const py::object& optimizer, const py::object& params, const py::object& grads,
              const py::object& grad_scale);

  // The same of a share: `params` are this process's parts of the parameters, and `ranks` asks those who have the other
  // parts. Each of its methods is called by all of them at once, and raises for all where one of them has failed:
  //   survey(finite, sums) before the step: each gradient's sums of squares by blocks; returns the norm over all
  //                        gradients, and the name of the first that is not finite, or None
  //   ready(scalars)       nothing is written before that
  //   norms(p, u)          where any group has a rule of norms: the sums of squares of parameters and directions, of
  //                        other rules any numbers; returns a pair of norms for each
  //   windows              ends of stretches of the row, in bytes
  //   before(i), after(i)  around the step of the i-th stretch
  void update_share(const py::object& optimizer, const py::object& params, const py::object& grads,
                    const py::object& grad_scale, const py::object& ranks);

  // The same as update(), and how many nanoseconds each part of it took: for the benchmark.
  std::map<std::string, int64_t> profile(const py::object& optimizer, const py::object& params,
                                         const py::object& grads);

  // One thread at a time is within: for an update, or to change what updates go by, which it may do in several steps.
  // A thread that is within cannot go in again, through a function that an update calls or in a signal handler; the
  // error then begins with `purpose`.
  void enter(const char* purpose);
  void leave();

  // What follows is only called from within, or before other threads know of the optimizer.

  // Which state a group's parameters have: the kernel's name, the slots in the order in which it takes them, and
  // whether the last of them is the average of the parameters, as of all groups or none.
  using Structure = std::tuple<std::string, py::tuple, bool>;

  // Makes the steps that rows lack because gradients by rows did not name them: those of `rows`, pairs of a name and
  // the numbers of rows, of arrays in `params`; or, if that is None, of all that are in `params`.
  // Where the thread is not within it goes in meanwhile.
  void catch_up(const py::object& params, const py::object& rows);
  void catch_up_all();  // of all parameters
  bool behind() const;
  bool moved_others() const { return moved_others_; }  // whether the last update is one to rows that it did not name

  // Sets attributes of which `_orders` tells. No Python code runs between them, a signal's handler neither.
  void change(const py::object& optimizer, const py::dict& attributes);
  // Goes on from a saved step: sets the optimizer's attributes, and with them what belongs to them here.
  void restore(const py::object& optimizer, const py::dict& attributes, int64_t t, int64_t skipped_before,
               const py::dict& state);
  void forget_plans();  // the numbers of groups are about to change

  // What follows may be asked by any thread at any time.
  bool updating() const { return owner_.load(std::memory_order_relaxed) == std::this_thread::get_id() && updating_; }
  bool made() const { return made_; }
  size_t stepped() const { return stepped_; }  // how many parameters had a gradient in the last update
  int64_t t() const { return t_; }
  // Of the last update's blocks, how many go the careful way next: for the benchmark and the tests, between updates.
  size_t careful_blocks() const { return plans_.empty() ? 0 : plans_.front()->passes.met_subnormals(); }
  int64_t skipped() const { return skipped_; }  // updates that were not made, as a gradient was not finite
  py::object last_nonfinite() const { return last_nonfinite_[0]; }  // the first such gradient's name, the last time
  py::object last_grad_norm() const;                                // of the last update that needed it, or None
  py::dict state() const { return py::object(state_[0]).attr("copy")(); }  // name -> {slot -> array}

  // For the garbage collector, as a name or the averages may lead back to the optimizer.
  int visit_all(visitproc visit, void* arg) const;
  void clear();

 private:
  enum class OnNonfinite { propagate, skip, raise };

  // What a step does before its first write.
  struct Caution {
    double clip_norm = -1;  // below 0: none
    double clip_eps = 0;    // is added to the norm
    OnNonfinite on_nonfinite = OnNonfinite::propagate;
    bool survey() const { return clip_norm >= 0 || on_nonfinite != OnNonfinite::propagate; }
  };

  // lap(name) is called at the end of each part.
  template <class Lap>
  void step(const py::object& optimizer, const py::object& params, const py::object& grads, double grad_scale,
            const Ranks& ranks, Lap lap);

  void ask_structures(const py::object& optimizer);
  void ask_orders(const py::object& optimizer);
  void ask_scalars(const py::object& optimizer);
  State state_of(const py::object& optimizer, const Entry& entry, size_t group, py::dict& fresh) const;
  // A plan of the entries, and the state of all parameters with that which it has made; no object where there was none
  // to be made.
  class Visit;
  struct ByRows;
  Lag* lag_of(const py::object& key) const;
  static void refuse_rows(const Entry& entry, const Kernel& kernel);
  void refuse_to_clear() const;
  std::vector<ByRows> prepare_rows(const Plan& plan);
  std::vector<std::pair<size_t, Named>> prepare_filled(const Plan& plan) const;
  std::vector<Arrears> due(const Plan& plan);
  void add_others(const View& p, const Lag* own, std::vector<Arrears>& arrears) const;
  void settle(const Plan& plan, ByRows& each);
  void step_rows(ByRows& each);
  void catch_up(Arrears& arrears);
  void forget_lags();
  std::pair<Plan, py::object> make_plan(const py::object& optimizer, const py::object& params) const;
  bool heed(double norm, const py::object* not_finite);
  Step step_of(size_t group) const;
  void step_in_numpy(const Plan& plan, const py::object& optimizer, const py::object& state, Rebound& rebound,
                     const py::list& pending) const;

  const bool tensors_;
  // By group.
  struct Rules {
    std::vector<const Kernel*> kernels;
    std::vector<py::tuple> slots;
  };
  Rules rules_;
  // The last plans, the one of the last update first: one optimizer may serve several networks in turn. Each learns by
  // itself how many threads it is worth.
  struct Laid {
    Plan plan;
    Passes passes;  // over this plan, where it is
    team::Pace pace;
    Laid(Plan made, const team::Pace& learned);
    Laid(const Laid&) = delete;
    Laid& operator=(const Laid&) = delete;
  };
  static constexpr size_t most_plans = 8;
  std::vector<std::unique_ptr<Laid>> plans_;
  // Of parameters with gradients by rows, where rows may be behind: the numbers of their names, and what they lack.
  py::dict lag_numbers_;
  std::vector<std::unique_ptr<Lag>> lags_;
  std::optional<RowPasses> row_passes_;
  bool in_numpy_ = false, averaged_ = false, moved_others_ = false;
  std::atomic<bool> made_{false};
  std::atomic<int64_t> t_{0}, skipped_{0};
  std::atomic<size_t> stepped_{0};
  std::atomic<double> last_grad_norm_{-1};  // below 0: none
  // Of one element each, as a list is safe where threads run without a GIL.
  const py::list last_nonfinite_, state_;
  const py::object lr_name_, lr_at_name_, scalars_name_, members_name_;
  std::vector<Entry> entries_;
  Orders orders_;
  Caution caution_;
  bool orders_known_ = false, touched_ = false;  // whether rows that are not named rest, and are never behind
  std::mutex mutex_;
  std::atomic<std::thread::id> owner_{};  // who is within
  bool updating_ = false;
  std::atomic<unsigned> forks_{0};  // as they were when the mutex was last taken
};

// What update() would refuse before any state is made: of the mappings, the arrays, and what they have in common.
void check(const py::object& params, const py::object& grads);

// One step of a rule on one array, with state and scalars of the caller's; state is given as (name, array), first what
// the kernel takes. `ratios` is asked as `_ratios` above is, where the rule needs it; `pending` is the list of what is
// copied when the step is taken.
void step_once(const std::string& rule, const py::tuple& scalars, const py::object& p, const py::object& g,
               const std::vector<std::pair<std::string, py::object>>& slots, const py::object& ratios,
               const py::list& pending);

}  // namespace schuss
