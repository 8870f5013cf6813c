"""The catalogue of faults: one small class each, in one room a kind."""

from __future__ import annotations

import importlib
import pkgutil
from functools import cache
from typing import TypeGuard

from chaos.model import Fault


@cache
def catalogue() -> dict[str, type[Fault]]:
    """Every fault of this package by name, in order of the rooms' names and of their lines."""
    found: dict[str, type[Fault]] = {}
    for room in sorted(module.name for module in pkgutil.iter_modules(__path__)):
        module = importlib.import_module(f"{__name__}.{room}")
        found |= {kind.name: kind for kind in vars(module).values() if _is_of(module.__name__, kind)}
    return found


def _is_of(room: str, kind: object) -> TypeGuard[type[Fault]]:
    """Whether it is a fault with a name, made in that room."""
    is_fault = isinstance(kind, type) and issubclass(kind, Fault) and kind.__module__ == room
    return is_fault and isinstance(vars(kind).get("name"), str)


def chosen(*, short: bool = False, only: tuple[str, ...] = ()) -> list[type[Fault]]:
    """The faults of a run. Raises KeyError with the names there are for one that is not there."""
    kinds = catalogue()
    if only:
        unknown = [name for name in only if name not in kinds]
        if unknown:
            raise KeyError(f"there is no fault {', '.join(unknown)}; there are {', '.join(kinds)}")
        return [kinds[name] for name in only]
    return [kind for kind in kinds.values() if kind.short or not short]
