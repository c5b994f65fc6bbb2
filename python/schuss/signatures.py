"""What a class takes: the arguments of its ``__init__``, and those that its ** passes on."""

from __future__ import annotations

from collections.abc import Mapping
from inspect import Parameter, Signature, signature
from typing import Any


def full_signature(cls: type[Any], passed_on: Mapping[str, Any]) -> Signature:
    """The signature of ``cls.__init__`` with names in place of its **: those of ``passed_on`` and their defaults."""
    own = signature(cls.__init__)
    arguments = [each for each in list(own.parameters.values())[1:] if each.kind is not Parameter.VAR_KEYWORD]
    if len(arguments) < len(own.parameters) - 1:
        taken = {each.name for each in arguments}
        arguments += [
            Parameter(name, Parameter.KEYWORD_ONLY, default=default)
            for name, default in passed_on.items()
            if name not in taken
        ]
    return own.replace(parameters=arguments)


def defaults_of(cls: type[Any]) -> dict[str, Any]:
    """The arguments of a class and their defaults, by its signature."""
    named = signature(cls).parameters.items()
    several = (Parameter.VAR_POSITIONAL, Parameter.VAR_KEYWORD)
    return {name: each.default for name, each in named if each.kind not in several}
