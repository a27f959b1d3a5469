# SPDX-License-Identifier: MIT
"""Classes that are their fields: what `dataclasses` does, at a tenth of what it costs at start-up.

That module compiles up to eight methods for each class, and imports half a compiler (inspect, ast, tokenize) to do so:
for the classes of a run that took longer than all other imports together. Here methods are shared, and `__init__` is
compiled when the second instance is made. Type checkers take the decorators for those of `dataclasses` (PEP 681).
"""

from __future__ import annotations

from collections.abc import Callable
from operator import attrgetter
from typing import Any, TypeVar, dataclass_transform

T = TypeVar("T")

_FRESH: Any = object()
"""Stands for the default of a field that each instance gets a new one of."""


class _Field:
    __slots__ = ("factory", "shown")

    def __init__(self, factory: Callable[[], Any] | None, *, shown: bool) -> None:
        self.factory, self.shown = factory, shown


_REQUIRED = _Field(None, shown=True)


def field(*, default_factory: Callable[[], Any] | None = None, repr: bool = True) -> Any:
    """A field with a default that is made for each instance, or one that `repr` leaves out."""
    return _Field(default_factory, shown=repr)


@dataclass_transform(frozen_default=True, field_specifiers=(field,))
def value(cls: type[T]) -> type[T]:
    """A class whose instances are what their fields are: equal, and hashed, by them.

    That nobody changes them the type checker sees to: at run time a guard would cost each instance twice its price.
    """
    return _made(cls, __hash__=_hash)


@dataclass_transform(field_specifiers=(field,))
def struct(cls: type[T]) -> type[T]:
    """A class whose instances are compared by their fields, which change."""
    return _made(cls, __hash__=None)


def replace(instance: T, **changes: Any) -> T:
    """One like it, with other values in some fields."""
    return type(instance)(**{name: getattr(instance, name) for name in names(type(instance))} | changes)


def names(cls: type) -> tuple[str, ...]:
    """The fields, in their order."""
    found: tuple[str, ...] = cls.__match_args__  # type: ignore[attr-defined]
    return found


def astuple(instance: object) -> tuple[Any, ...]:
    """What the fields hold, in their order."""
    values: tuple[Any, ...] = type(instance)._values(instance)  # type: ignore[attr-defined]
    return values


def _values(self: object) -> tuple[Any, ...]:
    """Of a class that was not asked for them yet."""
    cls: Any = type(self)
    fields = names(cls)
    if len(fields) > 1:
        cls._values = attrgetter(*fields)
    else:  # which gives no tuple then
        cls._values = lambda instance: tuple(getattr(instance, name) for name in fields)
    return astuple(self)


def _made(cls: type[T], **methods: Any) -> type[T]:
    """The class anew: slots cannot be added to one that is there."""
    body = {name: its for name, its in vars(cls).items() if name not in ("__dict__", "__weakref__")}
    own = tuple(body.get("__annotations__", ()))
    given = {name: body.pop(name) for name in own if name in body}
    body |= {
        "__slots__": own,
        "__match_args__": own,
        "__qualname__": cls.__qualname__,
        "_given": given,
        "_unused": True,
        "_values": _values,
    }
    body |= {"__init__": _init, "__repr__": _repr, "__eq__": _eq, **methods}
    made: type[T] = type(cls)(cls.__name__, cls.__bases__, body)  # type: ignore[misc]
    return made


def _init(self: Any, *args: Any, **kwargs: Any) -> None:
    """Of a class that has no instance yet, or one: half of the classes never have another, and to fill one takes a
    fiftieth of the time that compiling does."""
    cls = type(self)
    if cls._unused and _filled(self, args, kwargs):
        cls._unused = False
    else:
        cls.__init__ = _compiled(cls)
        cls.__init__(self, *args, **kwargs)


def _filled(instance: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
    """Set the fields; False when the arguments do not fit."""
    cls = type(instance)
    fields = names(cls)
    values = dict(zip(fields, args, strict=False)) | kwargs
    if len(values) != len(args) + len(kwargs) or not values.keys() <= set(fields):
        return False
    for name in fields:
        if name not in values:
            default = cls._given.get(name, _REQUIRED)
            if not isinstance(default, _Field):
                values[name] = default
            elif default.factory is not None:
                values[name] = default.factory()
            else:
                return False
        setattr(instance, name, values[name])
    return True


def _compiled(cls: Any) -> Any:
    """`__init__`, as one would write it."""
    lines, defaults, known = [" pass"], [], {"_FRESH": _FRESH}
    for name in names(cls):
        default, said = cls._given.get(name, _REQUIRED), name
        if not isinstance(default, _Field):
            defaults.append(default)
        elif default.factory is not None:
            defaults.append(_FRESH)
            known[f"_new_{name}"] = default.factory
            said = f"_new_{name}() if {name} is _FRESH else {name}"
        lines.append(f" self.{name} = {said}")
    text = "\n".join([f"def __init__({', '.join(('self', *names(cls)))}):", *lines])
    exec(text, known)  # noqa: S102 - names of fields; compile() would get ready for syntax trees first: 2 ms
    made: Any = known["__init__"]
    made.__defaults__, made.__qualname__ = tuple(defaults), f"{cls.__qualname__}.__init__"
    return made


def _repr(self: Any) -> str:
    hidden = {name for name, default in self._given.items() if isinstance(default, _Field) and not default.shown}
    shown = (f"{name}={getattr(self, name)!r}" for name in names(type(self)) if name not in hidden)
    return f"{type(self).__qualname__}({', '.join(shown)})"


def _eq(self: object, other: object) -> bool:
    return astuple(self) == astuple(other) if other.__class__ is self.__class__ else NotImplemented


def _hash(self: object) -> int:
    return hash(astuple(self))
