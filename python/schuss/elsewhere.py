"""What other frameworks and books call our arguments: for the message to who uses their names."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

# The first that a class has is the one meant.
_OURS: Mapping[str, tuple[str, ...]] = {
    "learning_rate": ("lr",),
    "eta": ("lr",),
    "alpha": ("decay_rate", "lr"),
    "rho": ("decay_rate",),
    "decay": ("decay_rate",),
    "gamma": ("decay_rate", "momentum"),
    "mu": ("momentum",),
    "beta": ("momentum", "decay_rate"),
    "b1": ("beta1",),
    "b2": ("beta2",),
    "b3": ("beta3",),
    "beta_1": ("beta1",),
    "beta_2": ("beta2",),
    "epsilon": ("eps_hat", "eps"),
    "initial_accumulator_value": ("initial_accumulator",),
    "global_clipnorm": ("clip_norm",),
    "max_norm": ("clip_norm",),
    "clipvalue": ("clip_value",),
    "ema_momentum": ("ema",),
    "optim_bits": ("state_dtype",),
    "mu_dtype": ("state_dtype",),
    "master_weights": ("master",),
    "stochastic_rounding": ("master",),
}

# What is a class of its own here.
_CLASSES = {"momentum": "Momentum", "nesterov": "Nesterov", "amsgrad": "AMSGrad"}


def unknown(cls: str, arguments: Sequence[str], name: str) -> str:
    """Say that a class with these arguments has none of that name, and what it is called here."""
    start = f"{cls} has no argument {name!r}"
    if name == "betas" and "beta1" in arguments:
        return f"{start}: give beta1 and beta2"
    if name in _CLASSES:
        return f"{start}: use schuss.{_CLASSES[name]}"
    if name == "clipnorm":
        return (
            f"{start}: Keras's brings each gradient to a norm of its own, which is not done here; clip_norm is of all "
            "gradients together, as Keras's global_clipnorm"
        )
    for ours in _OURS.get(name, ()):
        if ours in arguments:
            return f"{start}: here it is called {ours!r}"
    return f"{start}; it takes {', '.join(arguments)}"
