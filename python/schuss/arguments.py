"""What an optimizer is told: which arguments its class takes, what each must be, and what follows from them."""

from __future__ import annotations

from collections.abc import Mapping
from functools import wraps
from inspect import Signature
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, ClassVar, Literal, TypeAlias

from . import _core
from .checks import number, shown
from .elsewhere import unknown
from .groups import NO_GROUPS, Groups
from .options import GLOBAL, KEPT, OPTIONS, RANGES, SHARED, LearningRate, checked_option, checked_rate
from .registry import OPTIMIZERS
from .signatures import defaults_of, full_signature

if TYPE_CHECKING:
    from typing_extensions import Self

LooksAt: TypeAlias = Literal["elements", "norms", "whole"]
_WIDENING: tuple[LooksAt, ...] = ("elements", "norms", "whole")


class Arguments:
    """The arguments of an optimizer, each checked when it is set; for each group a twin that has the group's."""

    # Each rule: its state arrays, and its hyperparameters' ranges.
    slots: ClassVar[tuple[str, ...]] = ()
    _ranges: ClassVar[Mapping[str, tuple[float, float, bool]]] = {}
    # Those of its arrays that are never negative; and why none may have fewer bits, where it may not.
    _never_negative: ClassVar[tuple[str, ...]] = ()
    _whole_state: ClassVar[str | None] = None
    # Whether weight decay is the rule's own and not a part of the gradient.
    _decoupled: ClassVar[bool] = False
    # What the step of an element depends on beside the element: nothing, norms of its array, or all of that.
    _looks_at: ClassVar[LooksAt] = "elements"
    # Why a rule goes with no other in one optimizer, if it does not.
    _alone: ClassVar[str | None] = None
    # Arguments of which one is given at a time; those that decide which state is kept; attributes in which a rule
    # remembers past steps.
    _alternatives: ClassVar[tuple[str, ...]] = ()
    _deciding: ClassVar[tuple[str, ...]] = ("ema",)
    _remembering: ClassVar[tuple[str, ...]] = ()

    # Of a rule of the user's, whose step is in NumPy: state that begins as a copy of the parameter, and whether weight
    # decay is its own.
    copies: ClassVar[tuple[str, ...]] = ()
    decoupled: ClassVar[bool] = False
    _in_numpy: ClassVar[bool] = False
    _shared: bool = False  # whether its state is that of one rank's share
    _firsts: Mapping[Any, int] = MappingProxyType({})  # and where in each parameter that begins
    _rate_name: str = "lr"  # which an error shows
    _now: int | None = None  # the step that is being taken, where a rule's step() asks

    # Of a rule, and of classes of the user that inherit from it: that whose name is the kernel's, and its arguments.
    _rule: ClassVar[type[Any]]
    _arguments: ClassVar[tuple[str, ...]] = ()
    # What a class takes by name; and whether it may have attributes of its own, as a class of the user's may.
    _accepted: ClassVar[tuple[str, ...]] = ()
    _open: ClassVar[bool] = False
    lr: LearningRate
    weight_decay: float = 0.0
    maximize: bool = False
    clip_value: float | None = None
    clip_norm: float | None = None
    ema: float | None = None
    on_nonfinite: Literal["propagate", "skip", "raise"] = "propagate"
    flush_subnormals: bool = False
    sparse: Literal["exact", "touched"] = "exact"
    state_dtype: Literal["float32", "bfloat16", "int8"] = "float32"
    master: Literal["split", "float32"] | None = "split"

    if TYPE_CHECKING:
        groups: Mapping[str, Mapping[str, Any]]
    else:

        @property
        def groups(self) -> Mapping[str, Mapping[str, Any]]:
            """Other arguments for some parameters: pattern -> arguments."""
            return self._groups.given

    __signature__: ClassVar[Signature]
    _engine: _core.Engine
    _groups: Groups = NO_GROUPS
    # For each group an optimizer with its arguments, which is asked for scalars: made anew when an argument changes.
    _members: tuple[Any, ...] = ()

    def __init_subclass__(cls) -> None:
        cls._open = cls.__module__ != f"{__package__}.optimizers"
        for name in vars(cls):
            if cls._open and name in cls._arguments:
                raise TypeError(f"{cls.__name__}.{name}: give it in __init__, as in super().__init__({name}=...)")
        for slot in ("ema", "remainder", "master"):
            if cls._open and slot in cls.slots:
                raise TypeError(f"{cls.__name__}.slots: {slot!r} is a name of ours; give yours another")
        in_numpy = cls._open and not hasattr(cls, "_rule") and callable(getattr(cls, "step", None))
        rule = in_numpy or (not cls._open and not cls.__name__.startswith("_"))
        before = next(each for each in cls.__mro__[1:] if issubclass(each, Arguments))
        options = {name: None if name == "groups" else getattr(Arguments, name) for name in OPTIONS}
        cls.__signature__ = full_signature(cls, options if rule else {**options, **defaults_of(before)})
        cls._accepted = tuple(cls.__signature__.parameters)
        if rule:
            cls._rule, cls._arguments, cls._in_numpy = cls, cls._accepted, in_numpy
            if in_numpy:
                cls._looks_at = "whole"
        if rule and not cls._open:
            OPTIMIZERS[cls.__name__] = cls
        if "__init__" not in vars(cls):
            return
        make = cls.__init__

        @wraps(make)
        def __init__(self: Arguments, *args: Any, groups: Any = None, **kwargs: Any) -> None:
            make(self, *args, **kwargs)
            if groups is not None:  # at last, as a group begins from all other arguments
                self.groups = groups

        type.__setattr__(cls, "__init__", __init__)  # which type checkers would else take for a declaration

    def __new__(cls, *args: Any, **kwargs: Any) -> Self:  # noqa: D102
        if not hasattr(cls, "_rule"):
            raise TypeError(
                f"{cls.__name__} is what all optimizers share; use one of them, as schuss.Adam, or give yours a method "
                "step(self, p, g, lr, **state)"
            )
        for name in kwargs:
            if name not in cls._accepted:
                raise TypeError(unknown(cls.__name__, getattr(cls, "_arguments", ()), name))
        if args and "lr" in kwargs and cls._accepted[:1] == ("lr",):
            raise TypeError(
                f"{cls.__name__} was given {shown(args[0])} beside lr={shown(kwargs['lr'])}: its first argument is lr, "
                "and parameters go to update(params, grads)"
            )
        self = super().__new__(cls)
        object.__setattr__(self, "_engine", _core.Engine())
        return self

    def __setattr__(self, name: str, value: Any) -> None:
        if self._now is not None:  # of a rule that is asked for a step, which must be able to fail and leave no trace
            raise AttributeError(f"step() cannot set self.{name}: it changes p and its state alone; name a slot for it")
        own = self._open and name not in self._arguments and not name.startswith("_")  # of a subclass
        if not own:
            value = self._checked(name, value)
        # A function that an update asks for its rate may set what is no option.
        grouped = self._members and not self._engine.updating
        if name in OPTIONS or grouped or (name in self._deciding and not self._engine.made):
            with self._engine:
                self._set(name, value)
        else:
            self._set(name, value)

    def __delattr__(self, name: str) -> None:
        if name in self._arguments or name.startswith("_"):
            raise AttributeError(f"cannot delete {name!r}: set it to what it is to be")
        object.__delattr__(self, name)

    def _set(self, name: str, value: Any) -> None:
        engine = self._engine
        if name in self._deciding and engine.made:
            twin = self._twin({name: value})
            if twin._structure() != self._structure() or (self.ema is None) != (twin.ema is None):
                old = getattr(self, name, None)
                raise ValueError(
                    f"{name} decides which state is kept: it cannot change from {old!r} to {value!r} now; "
                    "make a new optimizer"
                )
        if name in (*KEPT, *self._deciding, "groups"):
            self._refuse_other_state(name, value)
        if name == "groups":
            members = tuple(self._member(pattern, given) for pattern, given in value.given.items())
            engine.forget_plans()
            engine.change(self, {"_groups": value, "_members": members})
        elif self._members:
            engine.change(self, {name: value, "_members": self._members_with({name: value})})
        elif name in OPTIONS:
            engine.change(self, {name: value})
        else:
            object.__setattr__(self, name, value)

    def _refuse_other_state(self, name: str, value: Any) -> None:
        """Refuse to change which state parameters have, or how its numbers are kept, where there is some."""
        old = (self, *self._members)
        groups: Groups = value if name == "groups" else self._groups
        twin = self if name == "groups" else self._twin({name: value})
        new = (twin, *(twin._member(pattern, given) for pattern, given in groups.given.items()))
        for parameter in self._engine.state:
            before, after = old[self._groups.number_of(parameter)], new[groups.number_of(parameter)]
            if before._structure() != after._structure():
                had, has = (f"{each._kernel()} ({', '.join(each._slots())})" for each in (before, after))
                raise ValueError(
                    f"{name} decides which state is kept: for {parameter!r} it cannot change from that of {had} to "
                    f"that of {has} now; make a new optimizer"
                )
            for each in KEPT:
                a, b = getattr(before, each), getattr(after, each)
                if a != b:
                    raise ValueError(
                        f"{each} decides how the state is kept: for {parameter!r} it cannot change from {a!r} to {b!r} "
                        "now; make a new optimizer"
                    )

    def _checked(self, name: str, value: Any) -> Any:
        """Return the value of an argument as it is kept, or say what is wrong with it."""
        if name == "lr":
            return checked_rate(value)
        if name == "groups":
            return Groups(value)
        ranges = {**RANGES, **self._ranges}
        if name in ranges:
            if value is None and getattr(type(self), name, 0.0) is None:
                return None
            low, high, open_end = ranges[name]
            return number(name, value, low, high, open_end)
        if name in OPTIONS:
            value = checked_option(name, value)
            if name == "state_dtype" and value != "float32":
                self._refuse_fewer_bits(value, "a rule of your own is computed in NumPy" if self._in_numpy else None)
            return value
        if self._in_numpy and name in self._arguments:
            return value
        raise AttributeError(f"cannot set {name!r}: {unknown(type(self).__name__, self._arguments, name)}")

    def _refuse_fewer_bits(self, dtype: str, reason: str | None = None) -> None:
        """Say why no state may have fewer bits than it is computed with, where that is so."""
        reason = reason or self._whole_state
        if reason is not None:
            raise ValueError(f'{type(self).__name__} cannot have state_dtype="{dtype}": {reason}; leave it float32')

    def _refuse_state_of_fewer_bits(self) -> None:
        """The same of the state that there is to be: by all arguments, of which one may come after another."""
        if self.state_dtype != "float32" and self._slots():
            self._refuse_fewer_bits(self.state_dtype)

    def __repr__(self) -> str:
        given = ((name, getattr(self, name, None)) for name in self._arguments)
        default = defaults_of(self._rule)
        text = (
            f"{name}={ ({k: dict(v) for k, v in (value or {}).items()} if name == 'groups' else value)!r}"
            for name, value in given
            if (value is not None or name == "master")
            and (value if name == "groups" else name not in OPTIONS or value != default[name])
        )
        return f"{type(self).__name__}({', '.join(text)})"

    # What the state consists of: the kernel's name, the slots, and whether the last one is the average.

    def _kernel(self) -> str:
        return "NumPy" if self._in_numpy else self._rule.__name__

    def _slots(self) -> tuple[str, ...]:
        return self.slots

    def _structure(self) -> tuple[str, tuple[str, ...], bool]:
        if self._in_numpy:  # which keeps all its state by itself
            return self._kernel(), (), False
        averaged = self.ema is not None
        return self._kernel(), self._slots() + (("ema",) if averaged else ()), averaged

    def _structures(self) -> list[tuple[str, tuple[str, ...], bool]]:
        return [each._structure() for each in (self, *self._members)]

    def _member_of(self, name: Any) -> Any:
        """The optimizer with the arguments of a parameter's group: one of the members, or itself."""
        return (self, *self._members)[self._groups.number_of(name)]

    def _widest_look(self) -> LooksAt:
        return max((each._looks_at for each in (self, *self._members)), key=_WIDENING.index)

    def _twin(self, changed: Mapping[str, Any] = MappingProxyType({})) -> Self:
        """An optimizer with the same arguments but for some, which is asked what it would do: no engine, no groups."""
        twin = object.__new__(type(self))
        for name in self._arguments:
            if name != "groups":
                object.__setattr__(twin, name, getattr(self, name, None))
        for name in self._remembering:
            object.__setattr__(twin, name, getattr(self, name))
        if self._open:
            for name, value in vars(self).items():
                if name not in twin._arguments and not name.startswith("_"):
                    object.__setattr__(twin, name, value)
        for name, value in changed.items():
            object.__setattr__(twin, name, value)
        return twin

    def _members_with(self, changed: Mapping[str, Any]) -> tuple[Arguments, ...]:
        """The groups' optimizers when some of this one's arguments have changed; they remember what they did."""
        twin = self._twin(changed)
        members = tuple(twin._member(pattern, given) for pattern, given in self._groups.given.items())
        if len(self._members) == len(members):  # they are none where all is made anew
            for member, old in zip(members, self._members, strict=True):
                for name in member._remembering:
                    object.__setattr__(member, name, getattr(old, name))
        return members

    def _member(self, pattern: str, given: Mapping[str, Any]) -> Arguments:
        others = {name: value for name, value in given.items() if name != "rule"}
        if given.get("rule", self._rule.__name__) == self._rule.__name__:
            member: Arguments = self._member_of_the_same(pattern, others)
        else:
            member = self._member_by_rule(pattern, given["rule"], others)
        object.__setattr__(member, "_rate_name", f"groups[{pattern!r}]: lr")
        return member

    def _member_of_the_same(self, pattern: str, given: Mapping[str, Any]) -> Arguments:
        self._check_names(pattern, given, type(self).__name__, (*self._arguments, "rule"))
        member = self._twin()
        if any(name in given for name in self._alternatives):
            for name in self._alternatives:
                object.__setattr__(member, name, None)
        try:
            for name, value in sorted(given.items(), key=lambda item: item[0] in KEPT):  # which hang on the others
                object.__setattr__(member, name, member._checked(name, value))
            member._refuse_state_of_fewer_bits()
        except (TypeError, ValueError) as error:
            raise type(error)(f"groups[{pattern!r}]: {error}") from None
        return member

    @staticmethod
    def _check_names(pattern: str, given: Mapping[str, Any], rule: str, arguments: tuple[str, ...]) -> None:
        for name in given:
            if name not in arguments:
                raise TypeError(f"groups[{pattern!r}]: {unknown(rule, arguments, name)}")
            if name in GLOBAL:
                raise ValueError(f"groups[{pattern!r}]: {name} concerns all parameters together")

    def _member_by_rule(self, pattern: str, rule: Any, given: Mapping[str, Any]) -> Arguments:
        """An optimizer of another rule: with its own arguments, and those of this one's that all rules take."""
        if not isinstance(rule, str) or str(rule) not in OPTIMIZERS:
            raise ValueError(
                f'groups[{pattern!r}]: rule must be the name of a rule, as in {{"rule": "AdamW", "lr": 0.001}}, one of '
                f"{', '.join(sorted(OPTIMIZERS))}; got {shown(rule)}"
            )
        cls: type[Arguments] = OPTIMIZERS[str(rule)]
        for each in (type(self), cls):
            reason = "its step is in NumPy" if each._in_numpy else each._alone
            if reason is not None:
                raise ValueError(
                    f"groups[{pattern!r}]: {each.__name__} goes with no other rule in one optimizer, as {reason}; make "
                    "an optimizer for each"
                )
        self._check_names(pattern, given, cls.__name__, cls._arguments)
        shared = {name: getattr(self, name) for name in SHARED}
        try:
            member = cls(**{**shared, **given})._twin()
            member._refuse_state_of_fewer_bits()
        except (TypeError, ValueError) as error:
            raise type(error)(f"groups[{pattern!r}]: {error}") from None
        for name in GLOBAL - {"groups"}:
            object.__setattr__(member, name, getattr(self, name))
        return member
