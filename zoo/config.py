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

    Raises:
        UserError: a field has the wrong type or a value outside its range; the message names the field, the value
            and what is allowed.
    """

    def __post_init__(self) -> None:
        kinds = typing.get_type_hints(type(self))
        for field in dataclasses.fields(self):
            self._check(field, kinds[field.name], getattr(self, field.name))

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
        return cls(**values)

    @property
    def parameter_count(self) -> int:
        """The number of weights of the backbone, worked out from the fields alone."""
        raise NotImplementedError(f"{type(self).__name__} does not count its parameters")

    def to_dict(self) -> dict[str, Any]:
        """The fields as JSON's values: `from_dict` of them is this config again."""
        return dataclasses.asdict(self)

    def replace(self, **overrides: Any) -> Self:
        """A copy with some fields changed; an unknown field is a UserError."""
        return type(self).from_dict({**self.to_dict(), **overrides})


def nearest(name: str, known: typing.Iterable[str]) -> str:
    """A hint for an error message: the known names most like `name`, or all of them where none is near."""
    known = list(known)
    close = difflib.get_close_matches(name, known, n=3, cutoff=0.5)
    if close:
        return f": did you mean {' or '.join(repr(each) for each in close)}?"
    return f": known are {', '.join(known)}"
