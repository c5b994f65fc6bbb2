"""What all optimizers share: options, groups, state, and :meth:`Optimizer.update`.

The rules themselves are in :mod:`schuss.optimizers`.
"""

from __future__ import annotations

from collections.abc import Mapping
from copy import deepcopy
from glob import escape
from os import PathLike
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from .arguments import Arguments
from .checkpoint import save
from .checks import shown
from .display import size, table
from .dtypes import computed
from .formats import beside, coded, number_of, parameter_dtype
from .memory import computed_copy, copy_of, zeros_like
from .nested import flat
from .options import CLIP_EPS, ON_NONFINITE, Grads, L2Options, LearningRate, Options, Orders, Params
from .reference import follow, prepared
from .schedules import Schedule, rate_at
from .states import rebuilt, refuse_share, restore, state_dict

if TYPE_CHECKING:
    from typing_extensions import Self, Unpack

__all__ = ["Grads", "L2Options", "LearningRate", "Optimizer", "Options", "Params"]


class Optimizer(Arguments):
    """What all optimizers share: the step count, the state, the options and :meth:`update`.

    Not used by itself: take one of its subclasses, which add their own arguments to these.

    Parameters
    ----------
    weight_decay : float, default 0
        L2 regularisation: ``weight_decay * p`` is added to the gradient. Rules whose papers decouple it from the
        gradient (AdamW, Lion, LAMB, LARS, Adan, Muon, Adafactor and the schedule-free ones) say so.
    maximize : bool, default False
        Climb: step along the gradient instead of against it.
    clip_value : float, optional
        Each element of a gradient is brought into ``[-clip_value, clip_value]``.
    clip_norm : float, optional
        All gradients together are scaled down to this norm if theirs is larger: by
        ``clip_norm / (norm + 1e-6)``, as ``torch.nn.utils.clip_grad_norm_`` does. Optax has no 1e-6.
    ema : float in [0, 1), optional
        Keep a running average of the parameters, ``ema * average + (1 - ema) * p`` after each step, in
        :attr:`ema_params`. It starts at the parameters as they are before their first update (PyTorch's
        ``AveragedModel``: after it).
    on_nonfinite : {"propagate", "skip", "raise"}, default "propagate"
        What to do where a gradient has an element that is NaN or infinite: what NumPy does; leave out the whole
        step and count it in :attr:`skipped`; or raise FloatingPointError. It is decided over all gradients before
        anything is written.
    flush_subnormals : bool, default False
        Count numbers below the normal range (1.2e-38 in float32) as zero during the step; the caller's own mode is
        restored after it. Averages of gradients that have been zero for long sink there. The results are then no longer
        those of plain NumPy; a step is hardly faster, as those numbers go a way of their own where processors are slow.
    sparse : {"exact", "touched"}, default "exact"
        What a gradient by rows (:class:`schuss.Rows`) does to the rows that it does not name. Exact: what the dense
        gradient would do, zeros there, bit for bit; these rows fall behind, and :meth:`catch_up` brings them up to
        date before they are read. Touched: nothing, their state rests, as in PyTorch's SparseAdam and TensorFlow's
        LazyAdam. That is much cheaper, and another algorithm: momentum does not move a row on, averages of squares
        and ``ema`` do not decay, weight decay pulls only at rows that are named, while the bias correction goes by
        all steps.
    state_dtype : {"float32", "bfloat16", "int8"}, default "float32"
        How the state of float32 and 16-bit parameters is kept between steps; a step computes in float32 whatever it
        is, and moves the parameter by the state before it is rounded. bfloat16: 2 bytes an element. int8: 1.03 bytes;
        16 steps to a factor of 2 from the largest of a block of 128 down to its 2**-7 (averages of squares: 2**-15),
        equal ones below. Both round at random, up with the probability of what is cut off: an average whose changes are
        smaller than half a unit of its last place would stand still otherwise. Where the sizes of gradients differ by
        more than some 1,000 in a block, int8 lets the smallest take smaller steps; a NaN or an infinity in the state
        makes NaN of its block. The random numbers depend on the parameter's name, the element and the step alone:
        results are the same bits on every machine and after a resume. Embeddings and small arrays may well stay in
        float32, by ``groups``; float64 parameters must. Not for LAMB, Adafactor, AMSGrad, RMSprop with ``centered``,
        the schedule-free rules and those of your own. PyTorch keeps state in its parameter's dtype, and Optax m in
        ``mu_dtype``, both rounded to the nearest. docs/precision.md says which to take.
    master : {"split", "float32", None}, default "split"
        What a parameter of 16 bits has beside it, so that no step is too small for it. Split: a bfloat16 parameter has
        the 16 bits that it lacks to a float32 (2 bytes, the state "remainder"); one of float16 has a float32 (4 bytes,
        the state "master"), as both have with "float32". The parameter is its master, rounded to the nearest (split:
        ties away from zero). None: nothing; the parameter is rounded at random. Where you write into a parameter, what
        you have written counts: a float32 master is given up; of a remainder there stays what is less than half a unit
        of the parameter's last place. PyTorch and Optax step a parameter of 16 bits by itself, rounded to the nearest.
    groups : mapping of pattern -> mapping of arguments, optional
        Other arguments for the parameters whose name matches the pattern (as in the module fnmatch, with case; in a
        list by number, as text); the first pattern that matches counts. Options that concern all parameters together
        cannot differ: ``clip_norm``, ``ema``, ``on_nonfinite``, ``flush_subnormals``, ``sparse`` and ``groups``. To
        change a group assign all of them, ``opt.groups = {**opt.groups, "*bias": {...}}``. A group may have
        another rule, by its name: ``{"*bias": {"rule": "AdamW", "lr": 3e-4}}``. Its rate or schedule, its weight decay
        and its other arguments are then those of the group, or the rule's own defaults; ``maximize``, ``clip_value``,
        ``state_dtype`` and ``master`` are the optimizer's where the group has none. Still it is one step in one pass:
        ``clip_norm`` goes by all gradients, and where anything is wrong nothing has changed. Not with schedule-free
        rules and rules of your own.

    Attributes
    ----------
    lr : float or callable
        The learning rate, or a function of the step ``t`` (1 for the first) that gives it. It and all other arguments
        can be assigned, and count from the next step on; but what decides which state is kept (``ema``, and
        RMSprop's ``centered`` and ``momentum``, on or off; ``state_dtype``, ``master``) only before the first update.
    t : int
        How many updates have been made.
    state : mapping
        Name of a parameter -> name of a slot -> its array, of the parameter's shape and dtype (float32 where that has
        16 bits). The arrays are the live ones: what is written into them counts. After an update with gradients by rows
        ask anew. With ``state_dtype="int8"`` each slot has its blocks' scales beside it (``"m_scale"``), and stands for
        the numbers ``schuss.formats.decode(opt.state["W"], "m")``. A parameter of 16 bits with its master is
        ``schuss.formats.parameter(params["W"], opt.state["W"])``.

    Notes
    -----
    A rule of your own is a subclass with a method ``step(self, p, g, lr, **state)`` that changes ``p`` and its state
    in NumPy, as those of :mod:`schuss.reference` do. It names its arrays in ``slots`` (those that begin as a copy of
    the parameter in ``copies``, too); ``self.t`` is the step that it takes, and attributes can be read alone. All that
    is said here holds for it; it is as fast as NumPy is, and a step that raises has changed nothing.

    The order within a step: the gradient is multiplied by ``grad_scale``; ``on_nonfinite`` looks at it; ``clip_norm``;
    ``clip_value``; ``maximize`` turns its sign; ``weight_decay`` is added; the rule; ``ema``. None of this writes into
    the gradients. It is PyTorch's order where PyTorch has one.

    Examples
    --------
    >>> import numpy as np, schuss
    >>> opt = schuss.SGD(lr=0.1, weight_decay=0.01, clip_norm=1.0, groups={"*bias": {"weight_decay": 0.0}})
    >>> params = {"weight": np.ones(2), "bias": np.ones(1)}
    >>> opt.update(params, {"weight": np.array([3.0, 0.0]), "bias": np.array([4.0])})
    >>> params["weight"].round(4), params["bias"].round(4), round(opt.last_grad_norm, 4)
    (array([0.939, 0.999]), array([0.92]), 5.0)
    >>> class SignMomentum(schuss.Optimizer):
    ...     slots = ("v",)
    ...     def __init__(self, lr=0.01, momentum=0.9, **options):
    ...         super().__init__(lr, **options)
    ...         self.momentum = momentum
    ...     def step(self, p, g, lr, v):
    ...         v *= self.momentum
    ...         v += g
    ...         p -= lr * np.sign(v)
    >>> SignMomentum(lr=0.5, clip_norm=1.0).update(params, {"weight": np.array([3.0, -1.0]), "bias": np.zeros(1)})
    >>> params["weight"].round(4), params["bias"].round(4)
    (array([0.439, 1.499]), array([0.92]))
    """

    def __init__(self, lr: LearningRate, **options: Unpack[L2Options]) -> None:
        self.lr = lr
        for name, value in options.items():
            setattr(self, name, value)

    def _repr_html_(self) -> str:
        arrays = [array for slots in self._engine.state.values() for array in slots.values()]
        # A function of the user's may do something else than tell a rate, and is not called for a picture.
        told = isinstance(self.lr, (float, Schedule))
        rate = f"{self.current_lr:g}" if told else "by a function"
        kept = f"{size(sum(array.nbytes for array in arrays))} in {len(arrays)} arrays" if arrays else "none"
        rows = [("step", f"{self.t:,}"), ("learning rate", rate), ("state", kept)]
        if self.last_grad_norm is not None:
            rows.append(("last gradient's norm", f"{self.last_grad_norm:g}"))
        if self.skipped:
            rows.append(("skipped", f"{self.skipped:,}, the last for {self.last_nonfinite!r}"))
        return table(repr(self), rows)

    @property
    def t(self) -> int:
        """How many updates have been made."""
        return self._engine.t if self._now is None else self._now

    @property
    def current_lr(self) -> float:
        """The learning rate of the last update, or before it of the first."""
        return self._lr_at(max(self.t, 1))

    @property
    def state(self) -> Mapping[Any, Mapping[str, NDArray[Any]]]:
        """The state arrays by parameter and slot, as in ``opt.state["W1"]["m"]``; no row is behind in them."""
        self._engine.catch_up_all()
        return MappingProxyType({name: MappingProxyType(slots) for name, slots in self._engine.state.items()})

    @property
    def ema_params(self) -> Mapping[Any, NDArray[Any]]:
        """The running averages of the parameters by name; the live arrays. Empty without ``ema``."""
        return MappingProxyType({name: slots["ema"] for name, slots in self.state.items() if "ema" in slots})

    @property
    def skipped(self) -> int:
        """How many updates were left out with ``on_nonfinite="skip"``."""
        return self._engine.skipped

    @property
    def last_nonfinite(self) -> Any:
        """The name of the first parameter whose gradient made an update be left out, the last time."""
        return self._engine.last_nonfinite

    @property
    def last_grad_norm(self) -> float | None:
        """The norm of all gradients at the last update that computed it: with ``clip_norm`` or ``on_nonfinite``."""
        norm: float | None = self._engine.last_grad_norm
        return norm

    def update(self, params: Params, grads: Grads, *, grad_scale: float = 1.0) -> None:
        """Take one step: change ``params`` in place, going by ``grads``.

        Parameters
        ----------
        params : mutable mapping of name -> ndarray, or list of ndarray
            The parameters, float32, float64, float16 or bfloat16 (of the package ml_dtypes), of any shape and any
            strides. A Python float or a NumPy scalar is taken too; as it cannot change in place, its entry is replaced.
            So is what is no array, but shows its memory and lets it be written (see ``grads``); not a tensor of
            PyTorch's, which is for :mod:`schuss.torch`.
        grads : mapping or list, like ``params``
            A gradient for each parameter, of the same shape, and dtype; but for float64, the three others go with
            each other. It is only read. ``None`` skips
            its parameter. A :class:`schuss.Rows` stands for the gradient that is zero in all other rows. What is no
            array, but whose memory NumPy can look into without a copy, is taken, too: by DLPack (JAX, PyTorch where no
            gradient is recorded, Arrow), ``__array_interface__`` or a buffer.

            Both may be nested: dicts, lists, tuples, and dataclasses given to :func:`schuss.register_dataclass`, within
            each other. Names are then paths, as in ``"layers/0/W"``; groups match them, and the state has them. A
            gradient of None skips all that is below it.
        grad_scale : float, default 1
            The gradients are multiplied by this on their way in: to average over micro-batches whose gradients
            were added up, or to undo a scaling of the loss.

        Raises
        ------
        TypeError
            For what is not such an array: another type or dtype, a byte-swapped array, a gradient of
            another dtype than its parameter's.
        ValueError
            For different names or shapes, a parameter that is read-only, not aligned, or overlaps
            anything else in memory, a parameter that has changed since its state was made, a
            learning rate that is negative or not finite, and a group whose pattern matches no name.
        FloatingPointError
            With ``on_nonfinite="raise"``, if an element of a gradient is NaN or infinite.
        RuntimeError
            From within an update of the same optimizer, through a function that it calls; and in a forked process, if
            another thread was within one at the fork.

        Notes
        -----
        A refused update has changed nothing: no parameter, no state, not ``t``. An update by another thread on the same
        optimizer is waited for, and so is its end where another thread sets an option or saves. NaN and infinity do
        what they do in NumPy.

        Examples
        --------
        >>> import numpy as np, schuss
        >>> params = {"W": np.ones(3), "b": np.zeros(1)}
        >>> opt = schuss.SGD(lr=0.5)
        >>> opt.update(params, {"W": np.array([1.0, 0.0, -1.0]), "b": None})
        >>> params["W"]
        array([0.5, 1. , 1.5])
        >>> opt.update(params, {"W": np.zeros(2), "b": None})
        Traceback (most recent call last):
        ValueError: grads['W'] has shape (2,), its parameter has shape (3,); they must be equal
        """
        self._engine.update(self, params, grads, grad_scale)

    def catch_up(self, params: Params, rows: Mapping[Any, Any] | None = None) -> None:
        """Bring rows up to date that gradients by rows have left behind: to what dense ones would have made of them.

        Parameters
        ----------
        params : mapping or list, like those of :meth:`update`
            The same arrays, or some of them.
        rows : mapping of name -> integers, optional
            Which rows of which parameters: those that will be read, as the words of the next batch, before they are.
            An array of any shape; repeated ones count once. All rows of all that are in ``params`` if it is not given.

        Raises
        ------
        TypeError
            If ``rows`` is no mapping, or its indices are no integers.
        ValueError
            If an index is out of range, or a parameter is another array than the one with rows behind.
        KeyError
            If ``params`` lacks a name of ``rows``, or all of those that have rows behind.

        Notes
        -----
        With ``sparse="touched"``, dense gradients, and rules and options to which a gradient of zero is none (SGD and
        AdaGrad without weight decay and average) no row is ever behind; then this does nothing. Saving, copying,
        :attr:`state`, :attr:`ema_params` and an update with a dense gradient catch up by themselves. Reading a
        parameter does not: it is an array of the caller's. Before it is evaluated, copied, pickled or put into a file,
        catch up; an optimizer that is let go of while rows are behind leaves them so. What was read without it shows in
        the next update, which refuses gradients for rows that are behind; unless they are caught up after the forward
        pass, which is too late, and is not found out.

        Examples
        --------
        >>> import numpy as np, schuss
        >>> params, opt = {"E": np.ones((4, 2))}, schuss.Momentum(lr=0.1)
        >>> for batch in ([0, 1], [2, 2], [0, 3]):
        ...     read = np.array(batch)
        ...     opt.catch_up(params, {"E": read})
        ...     opt.update(params, {"E": schuss.Rows(read, np.ones((2, 2)))})
        >>> opt.catch_up(params)
        >>> params["E"].round(3)
        array([[0.629, 0.629],
               [0.729, 0.729],
               [0.62 , 0.62 ],
               [0.9  , 0.9  ]])
        """
        params = flat(params)
        if not (hasattr(params, "keys") or isinstance(params, (list, tuple))):
            raise TypeError(f"params must be a dict of name -> numpy.ndarray, or a list of them; got {shown(params)}")
        if rows is None:
            self._engine.catch_up(params, None)
            return
        if not isinstance(rows, Mapping):
            raise TypeError(f"rows must be a mapping of name -> integers, got {shown(rows)}")
        pairs = []
        for name, numbers in rows.items():
            array = np.asarray(numbers)
            if array.size and array.dtype.kind not in "iu":
                raise TypeError(f"rows[{name!r}] must be integers, got {array.dtype}")
            pairs.append((name, array.astype(np.int64).ravel()))
        self._engine.catch_up(params, pairs)

    def state_dict(self) -> dict[str, Any]:
        """Return all there is to know as a plain dict: format, class, arguments, ``t``, and copies of the state.

        Returns
        -------
        dict
            The learning rate is in it as a number or as the description of a schedule; of another function only its
            repr is, and :meth:`load_state_dict` then asks for ``lr``. What a subclass has added to its instances is
            not in it.

        Examples
        --------
        >>> import numpy as np, schuss
        >>> opt = schuss.Momentum(lr=0.5)
        >>> opt.update({"W": np.zeros(2)}, {"W": np.ones(2)})
        >>> saved = opt.state_dict()
        >>> saved["class"], saved["t"], saved["state"]
        ('Momentum', 1, {'W': {'v': array([-0.5, -0.5])}})
        >>> again = schuss.Momentum()
        >>> again.load_state_dict(saved)
        >>> again
        Momentum(lr=0.5, momentum=0.9, dampening=0.0)
        """
        return state_dict(self)

    def load_state_dict(
        self,
        saved: Mapping[str, Any],
        *,
        lr: LearningRate | None = None,
        groups: Mapping[str, Mapping[str, Any]] | None = None,
    ) -> None:
        """Go on from what :meth:`state_dict` has returned: arguments, counts and state.

        Parameters
        ----------
        saved : mapping
            What :meth:`state_dict` of an optimizer of this class has returned; its arrays are copied.
        lr : float or callable, optional
            Taken in place of the saved one; needed where that was a function which is no schedule of ours.
        groups : mapping, optional
            Taken in place of the saved ones; needed where one of their rates was such a function.

        Raises
        ------
        ValueError
            If it is of another class or format version, or if an argument, a name, a shape or a dtype is wrong. All
            is checked before anything changes.
        TypeError
            If ``saved`` is no mapping.

        Notes
        -----
        Schedules are made anew: report to ``opt.lr``, not to a :class:`~schuss.schedules.ReduceOnPlateau` of before.
        """
        restore(self, saved, lr, groups)

    def save(self, path: str | PathLike[str], params: Params | None = None) -> None:
        """Write the optimizer, and its parameters if given, to a safetensors file, to be read by :func:`schuss.load`.

        The file is written beside its place and put there when it is on the disk. Whenever the process or the machine
        stops, there is either the old file or the new one, whole.

        Parameters
        ----------
        path : str or path
            Where the file is to be.
        params : mapping or list, optional
            The parameters, as for :meth:`update`.

        Raises
        ------
        ValueError
            If the learning rate is a function that is no schedule of ours, a name is neither a string nor a number, or
            the class is one of your own.
        TypeError
            If ``params`` is neither a mapping nor a list, or has something else in it than floats and arrays of them.
        OSError
            If the file cannot be written; the old one is then as it was.
        ImportError
            If safetensors is not installed.

        Notes
        -----
        Another thread's update waits until the file is written.
        """
        save(self, path, params)

    def __reduce__(self) -> Any:
        refuse_share(self, "copying")
        with self._engine:
            given = {name: getattr(self, name, None) for name in self._arguments}
            given["groups"] = {pattern: dict(arguments) for pattern, arguments in self.groups.items()}
            own = {name: value for name, value in vars(self).items() if name not in given and not name.startswith("_")}
            return rebuilt, (
                type(self),
                given,
                own,
                self._memories(self.t),
                self.t,
                self.skipped,
                self._copied_state(),
            )

    def __copy__(self) -> Self:
        return deepcopy(self)  # which shares nothing, as the state is copied in any case

    def _copied_state(self) -> dict[Any, dict[str, NDArray[Any]]]:
        return {name: {slot: copy_of(array) for slot, array in slots.items()} for name, slots in self.state.items()}

    def _memory(self, t: int) -> dict[str, Any]:
        """What a rule remembers after step t beside arrays, as JSON has it."""
        return {}

    def _remember(self, memory: Mapping[str, Any], t: int) -> None:
        """Take back what _memory() has returned after step t, or raise ValueError."""
        if memory != {}:
            raise ValueError(f"{type(self).__name__} remembers nothing of past steps, got {shown(memory)}")

    def _memories(self, t: int) -> list[dict[str, Any]]:
        """What this optimizer and its groups remember after step t."""
        return [each._memory(t) for each in (self, *self._members)]

    # The engine calls those that follow. What stands in the first two costs every update.

    def _lr_at(self, t: int) -> float:
        if not callable(self.lr):
            return self.lr
        return rate_at(self.lr, t, self._rate_name)

    def _scalars(self, lr: float, t: int) -> tuple[float, ...]:
        """The members of the rule in cpp/rules.hpp at step t, in their order; the rate of one that is in NumPy."""
        return (lr,)

    def _new_state(self, name: Any, p: Any) -> dict[str, NDArray[Any]]:
        """The state of a parameter before its first update."""
        state = self.new_state(p)
        if self.ema is not None:
            state["ema"] = computed_copy(p, len(state) + 1)
        return state

    def _kept_state(self, name: Any, p: Any) -> dict[str, NDArray[Any]]:
        """The same as it is kept: in fewer bits where that is wanted, with what is beside a parameter of 16 bits."""
        dtype = np.asarray(p).dtype
        if self._in_numpy and computed(dtype) != dtype:
            raise TypeError(
                f"params[{name!r}] is {dtype}, in which a rule of your own would be computed; use float32 or float64"
            )
        state = self._new_state(name, p)
        for slot, array in state.items() if self._in_numpy else ():
            if isinstance(array, np.ndarray) and array.dtype not in (np.float32, np.float64):
                raise TypeError(
                    f"the state {slot!r} of params[{name!r}] is {array.dtype}; your own rule keeps float32, float64"
                )
        if self.state_dtype != "float32" and self._slots():
            try:
                self._refuse_state_of_fewer_bits()
            except ValueError as error:
                raise ValueError(f"params[{name!r}]: {error}") from None
            if not isinstance(p, np.ndarray) or computed(dtype) != np.float32:
                what = f"{dtype}, and so is its state" if isinstance(p, np.ndarray) else f"{shown(p)}, and no array"
                raise ValueError(
                    f'params[{name!r}] is {what}; state_dtype="{self.state_dtype}" is for arrays of float32, float16 '
                    f'and bfloat16: give it groups={{{escape(str(name))!r}: {{"state_dtype": "float32"}}}}'
                )
        return self._kept(state, p)

    def _kept(self, state: dict[str, NDArray[Any]], p: Any) -> dict[str, NDArray[Any]]:
        """State as it is kept, and what is beside a parameter."""
        if self.state_dtype != "float32" and self._slots():
            state = coded(state, self._slots(), self._never_negative, self.state_dtype)
        return {**state, **beside(p, self.master)}

    def _place_of(self, name: Any) -> tuple[int, int, bool]:
        """A parameter's number and its first element's place, for random numbers; whether it is to have a master."""
        member: Optimizer = self._member_of(name)
        return number_of(name), self._firsts.get(name, 0), member.master is not None

    def _like(self, state: Mapping[str, NDArray[Any]]) -> NDArray[Any] | None:
        """An array of the shape of the parameter that a state is of, and a dtype for which it is kept so, if any is."""
        for slot in ("remainder", "master", *self._slots(), "ema"):
            if slot in state:
                return np.broadcast_to(np.zeros((), parameter_dtype(slot, state[slot].dtype)), state[slot].shape)
        return None

    def _workspace(self, name: Any, p: Any) -> NDArray[Any]:
        """What the first half of a rule whose second half needs Python hands over; it is no state."""
        return zeros_like(p, len(self._member_of(name)._slots()) + 1)

    def _orders(self) -> Orders:
        """What a step does beside the rule; asked when an option has changed. For each group: L2, clip_value, sign."""
        return (
            -1.0 if self.clip_norm is None else self.clip_norm,
            CLIP_EPS,
            ON_NONFINITE.index(self.on_nonfinite),
            -1.0 if self.ema is None else self.ema,
            self.flush_subnormals,
            self.sparse == "touched",
            False,
            [each._order() for each in (self, *self._members)],
        )

    def _order(self) -> tuple[float, float, float]:
        return (
            0.0 if self._decoupled else self.weight_decay,
            float("inf") if self.clip_value is None else self.clip_value,
            -1.0 if self.maximize else 1.0,
        )

    def new_state(self, p: Any) -> dict[str, NDArray[Any]]:
        """Return the state of a parameter before its first step; a rule of your own may keep other arrays.

        Parameters
        ----------
        p : ndarray or float
            The parameter.

        Returns
        -------
        dict
            Name -> array, as ``step()`` takes them: here one for each of ``slots``, of the shape and dtype of ``p``.
        """
        return {
            slot: computed_copy(p, nth) if slot in self.copies else zeros_like(p, nth)
            for nth, slot in enumerate(self._slots(), start=1)
        }

    def _step_in_numpy(
        self,
        p: Any,
        g: Any,
        state: Mapping[str, NDArray[Any]],
        group: int,
        lr: float,
        scale: float,
        shrink: float,
        pending: list[tuple[NDArray[Any], NDArray[Any]]],
    ) -> Any:
        """Take the step of one parameter on copies, which ``pending`` takes; return the new value of a float."""
        rule = (self, *self._members)[group]._twin()
        object.__setattr__(rule, "_now", self._engine.t + 1)
        new_p, new = np.array(p), {slot: np.array(array) for slot, array in state.items()}
        g = np.array(g, new_p.dtype)
        if scale != 1:
            g = np.asarray(g * scale)
        own = {slot: array for slot, array in new.items() if slot != "ema"}
        rule.step(new_p, prepared(rule, new_p, g, shrink), lr, **own)
        if self.ema is not None:
            follow(new["ema"], new_p, self.ema)
        pending.extend((state[slot], array) for slot, array in new.items())
        if not isinstance(p, np.ndarray):
            return type(p)(new_p)
        pending.append((p, new_p))
        return None

    def _make_state(self, name: Any, p: Any) -> dict[str, NDArray[Any]]:
        """The state of a parameter that has not been met: as its group has it."""
        member: Optimizer = self._member_of(name)
        return member._kept_state(name, p)

    def _ratios(self, scalars: tuple[float, ...], workspaces: list[NDArray[Any]]) -> list[float]:
        """Between the halves of a rule whose second half needs Python: its last scalar for each of its parameters.

        The workspaces, one of each parameter, may be changed; nothing else may.
        """
        raise NotImplementedError
