"""The base of every family's configuration: a frozen dataclass that validates itself and reads JSON strictly."""

import dataclasses
import difflib
import math
import types
import typing
from typing import Any, Self

from zoo.errors import UserError


def setting(
    default: Any = dataclasses.MISSING,
    *,
    low: float | None = None,
    high: float | None = None,
    choices: tuple[str, ...] | None = None,
) -> Any:
    """Declare a field of a `Config` with the range (both ends included) or the choices that it allows."""
    return dataclasses.field(default=default, metadata={"low": low, "high": high, "choices": choices})


@dataclasses.dataclass(frozen=True)
class Config:
    """What a model is built from. Subclasses declare typed fields with `setting`; everything else follows from them.

    A field may be a number, a string, a bool, None, a tuple of a fixed length (a single value stands for all of it, and
    the range holds for each), or another `Config`. Where that may be of several classes, `from_dict` takes the first
    that has all the fields that are given, or the most of them: `to_dict` writes all.

    Raises:
        UserError: a field has the wrong type or a value outside its range; the message names the field, the value
            and what is allowed.
    """

    def __post_init__(self) -> None:
        kinds = typing.get_type_hints(type(self))
        for field in dataclasses.fields(self):
            kind, value = kinds[field.name], getattr(self, field.name)
            if typing.get_origin(kind) is tuple:
                object.__setattr__(self, field.name, self._check_tuple(field, typing.get_args(kind), value))
            elif not (classes := _config_classes(kind)):
                self._check(field, kind, value)
            elif type(value) not in classes:
                self._reject(field.name, value, f"a {' or a '.join(each.__name__ for each in classes)}")

    def _check_tuple(self, field: dataclasses.Field, kinds: tuple[Any, ...], value: Any) -> tuple[Any, ...]:
        values = tuple(value) if isinstance(value, (list, tuple)) else (value,) * len(kinds)
        if len(values) != len(kinds):
            self._reject(field.name, value, f"{len(kinds)} values")
        for kind, each in zip(kinds, values, strict=True):
            self._check(field, kind, each)
        return values

    def _check(self, field: dataclasses.Field, kind: Any, value: Any) -> None:
        kinds = typing.get_args(kind) if isinstance(kind, types.UnionType) else (kind,)
        # bool is a subclass of int, and 1.0 is not a count: both are mistakes that Python would let pass.
        accepted = type(value) in kinds or (float in kinds and type(value) is int)
        low, high, choices = (field.metadata.get(name) for name in ("low", "high", "choices"))
        names = " or ".join("null" if each is types.NoneType else each.__name__ for each in kinds)
        allowed = f"one of {', '.join(choices)}" if choices else names
        if low is not None:
            allowed += f" >= {low}" + (f" and <= {high}" if high is not None else "")
        if accepted and choices:
            accepted = value in choices
        if accepted and isinstance(value, (int, float)) and not isinstance(value, bool):
            accepted = abs(value) < math.inf and (low is None or value >= low) and (high is None or value <= high)
        if not accepted:
            self._reject(field.name, value, allowed)

    def _reject(self, name: str, value: Any, allowed: str) -> typing.NoReturn:
        raise UserError(f"{type(self).__name__}: {name} is {value!r:.80}, and must be {allowed}")

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Self:
        """Build a config from JSON's values.

        Raises:
            UserError: `values` is no object, or has an unknown key, lacks a required one, or holds a wrong value.
        """
        if not isinstance(values, dict):
            raise UserError(f"{cls.__name__}: expected an object with fields, got {values!r:.80}")
        fields = {field.name: field for field in dataclasses.fields(cls)}
        for key in values:
            if key not in fields:
                raise UserError(f"{cls.__name__}: unknown field {key!r:.80}{nearest(str(key), fields)}")
        for name, field in fields.items():
            if field.default is dataclasses.MISSING and name not in values:
                raise UserError(f"{cls.__name__}: the field {name!r} is missing")
        kinds = typing.get_type_hints(cls)
        return cls(
            **{
                name: _nested_class(kinds[name], value).from_dict(value)
                if _config_classes(kinds[name]) and type(value) is dict
                else value
                for name, value in values.items()
            }
        )

    def count_parameters(self, task: str) -> int:
        """The number of weights of the model for `task`, worked out from the fields alone."""
        raise NotImplementedError(f"{type(self).__name__} does not count its parameters")

    def count_flops(self) -> int:
        """Floating-point operations of one forward pass for the family's unit of work, one token of a full context,
        one image, or one pair of both: two for each multiplication of its matrix products."""
        raise NotImplementedError(f"{type(self).__name__} does not count its operations")

    def make_preprocessing(self) -> Any:
        """What images go through where nothing else is said, a `zoo.image.Preprocessing`; None where there are none."""
        return None

    def to_dict(self) -> dict[str, Any]:
        """The fields as JSON's values: `from_dict` of them is this config again."""
        values = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        for name, value in values.items():
            if isinstance(value, Config):
                values[name] = value.to_dict()
            elif isinstance(value, tuple):
                values[name] = list(value)
        return values

    def replace(self, **overrides: Any) -> Self:
        """A copy with some fields changed, a part of a nested config by a dict; an unknown field is a UserError."""
        values = {
            name: getattr(self, name).replace(**value)
            if isinstance(getattr(self, name, None), Config) and type(value) is dict
            else value
            for name, value in overrides.items()
        }
        own = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        return type(self).from_dict({**own, **values})


def _config_classes(kind: Any) -> tuple[type[Config], ...]:
    """The classes of a field that holds another `Config`; none where it does not."""
    kinds = typing.get_args(kind) if isinstance(kind, types.UnionType) else (kind,)
    return kinds if all(isinstance(each, type) and issubclass(each, Config) for each in kinds) else ()


def _nested_class(kind: Any, values: dict[str, Any]) -> type[Config]:
    def count_unknown(each: type[Config]) -> int:
        return len(values.keys() - {field.name for field in dataclasses.fields(each)})

    return min(_config_classes(kind), key=count_unknown)  # the first of those with as few


def nearest(name: str, known: typing.Iterable[str]) -> str:
    """A hint for an error message: the known names most like `name`, or all of them where none is near."""
    known = list(known)
    close = difflib.get_close_matches(name, known, n=3, cutoff=0.5)
    if close:
        return f": did you mean {' or '.join(repr(each) for each in close)}?"
    return f": known are {', '.join(known)}"
