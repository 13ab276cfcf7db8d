"""`zoo.config`: strict types and ranges, strict JSON, hints; and the families' configurations on top of it."""

import dataclasses
import json

import pytest

from zoo.config import Config, nearest, setting
from zoo.errors import UserError
from zoo.gpt import GPTConfig
from zoo.registry import FAMILIES

PRESETS = [config for family in FAMILIES.values() for config in family.presets.values()]


@dataclasses.dataclass(frozen=True)
class Example(Config):
    size: int = setting(low=1, high=10)
    rate: float = setting(0.5, low=0.0, high=1.0)
    mode: str = setting("a", choices=("a", "b"))
    inner: int | None = setting(None, low=2)
    bias: bool = setting(True)


def test_fields_are_kept_as_given() -> None:
    assert Example(3).to_dict() == {"size": 3, "rate": 0.5, "mode": "a", "inner": None, "bias": True}
    assert Example(1, 0, "b", 2, False).to_dict() == {"size": 1, "rate": 0, "mode": "b", "inner": 2, "bias": False}
    assert Example(10, 1.0).rate == 1.0


@pytest.mark.parametrize("config", [Example(3), Example(4, 0.25, "b", 7, False), *PRESETS])
def test_a_config_survives_json(config: Config) -> None:
    again = type(config).from_dict(json.loads(json.dumps(config.to_dict())))
    assert again == config
    assert hash(again) == hash(config)


@dataclasses.dataclass(frozen=True)
class Pair(Config):
    """With fields of several values, and of another config."""

    size: tuple[int, int] = setting((2, 3), low=1, high=10)
    scale: tuple[float, float, float] = setting((1.0, 1.0, 1.0), low=0.0)
    inner: Example = setting(Example(3))  # noqa: RUF009 - frozen


def test_several_values_and_configs_inside_survive_json() -> None:
    pair = Pair((4, 5), 0.5, Example(7, mode="b"))
    record = pair.to_dict()
    assert record == {
        "size": [4, 5],
        "scale": [0.5, 0.5, 0.5],
        "inner": {"size": 7, "rate": 0.5, "mode": "b", "inner": None, "bias": True},
    }
    again = Pair.from_dict(json.loads(json.dumps(record)))
    assert again == pair and hash(again) == hash(pair)
    assert again.size == (4, 5) and type(again.inner) is Example


def test_one_value_stands_for_all() -> None:
    assert Pair(4).size == (4, 4) and Pair([4, 5]).size == (4, 5)
    assert Pair().replace(size=6) == Pair((6, 6))


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"size": [1, 2, 3]}, "Pair: size is [1, 2, 3], and must be 2 values"),
        ({"size": []}, "Pair: size is [], and must be 2 values"),
        ({"size": [1, 11]}, "Pair: size is 11, and must be int >= 1 and <= 10"),
        ({"size": [1, "2"]}, "Pair: size is '2', and must be int >= 1 and <= 10"),
        ({"size": [1, [2]]}, "Pair: size is [2], and must be int >= 1 and <= 10"),
        ({"size": "12"}, "Pair: size is '12', and must be int >= 1 and <= 10"),
        ({"size": None}, "Pair: size is None, and must be int >= 1 and <= 10"),
        ({"size": {"a": 1}}, "Pair: size is {'a': 1}, and must be int >= 1 and <= 10"),
        ({"scale": [1.0, 1, float("nan")]}, "Pair: scale is nan, and must be float >= 0.0"),
        ({"inner": None}, "Pair: inner is None, and must be a Example"),
        ({"inner": [1]}, "Pair: inner is [1], and must be a Example"),
        ({"inner": {}}, "Example: the field 'size' is missing"),
        ({"inner": {"size": 99}}, "Example: size is 99, and must be int >= 1 and <= 10"),
        ({"inner": {"size": 9, "sise": 1}}, "Example: unknown field 'sise': did you mean 'size'"),
    ],
)
def test_a_wrong_value_inside_is_named(values: dict, message: str) -> None:
    with pytest.raises(UserError) as caught:
        Pair.from_dict(values)
    assert str(caught.value).startswith(message)


def test_replace_reaches_inside() -> None:
    pair = Pair(inner=Example(3, mode="b"))
    assert pair.replace(inner={"size": 4}) == Pair(inner=Example(4, mode="b"))
    assert pair.replace(inner=Example(5)) == Pair(inner=Example(5))
    with pytest.raises(UserError, match="Example: unknown field 'sise'"):
        pair.replace(inner={"sise": 4})


def test_a_config_cannot_be_changed() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        Example(3).size = 4  # type: ignore[misc]


@pytest.mark.parametrize(
    ("field", "value", "allowed"),
    [
        ("size", 0, "int >= 1 and <= 10"),
        ("size", 11, "int >= 1 and <= 10"),
        ("size", 10**400, "int >= 1 and <= 10"),
        ("size", 2.0, "int >= 1 and <= 10"),
        ("size", True, "int >= 1 and <= 10"),
        ("size", "2", "int >= 1 and <= 10"),
        ("size", None, "int >= 1 and <= 10"),
        ("size", [2], "int >= 1 and <= 10"),
        ("rate", -0.1, "float >= 0.0 and <= 1.0"),
        ("rate", 1.1, "float >= 0.0 and <= 1.0"),
        ("rate", float("nan"), "float >= 0.0 and <= 1.0"),
        ("rate", float("inf"), "float >= 0.0 and <= 1.0"),
        ("rate", 10**400, "float >= 0.0 and <= 1.0"),
        ("rate", False, "float >= 0.0 and <= 1.0"),
        ("mode", "c", "one of a, b"),
        ("mode", None, "one of a, b"),
        ("mode", ["a"], "one of a, b"),
        ("inner", 1, "int or null >= 2"),
        ("inner", 2.5, "int or null >= 2"),
        ("bias", 1, "bool"),
        ("bias", None, "bool"),
    ],
)
def test_a_wrong_value_is_named_with_what_is_allowed(field: str, value: object, allowed: str) -> None:
    with pytest.raises(UserError) as caught:
        Example.from_dict({"size": 3, field: value})
    message = str(caught.value)
    assert message.startswith(f"Example: {field} is {value!r:.80}, and must be {allowed}")
    assert "\n" not in message and len(message) < 200


def test_an_unknown_field_suggests_the_nearest() -> None:
    with pytest.raises(UserError, match=r"^Example: unknown field 'modes': did you mean 'mode'\?$"):
        Example.from_dict({"size": 3, "modes": "a"})
    with pytest.raises(UserError, match="unknown field 'xyzw': known are size, rate, mode, inner, bias"):
        Example.from_dict({"size": 3, "xyzw": 1})


def test_a_message_stays_short_whatever_the_file_holds() -> None:
    for values in ({"x\n" * 10**5: 1}, {"size": "y\n" * 10**5}):
        with pytest.raises(UserError) as caught:
            Example.from_dict(values)
        assert len(str(caught.value)) < 250 and "\n" not in str(caught.value)


def test_a_missing_field_is_named() -> None:
    with pytest.raises(UserError, match=r"^Example: the field 'size' is missing$"):
        Example.from_dict({"rate": 0.1})


@pytest.mark.parametrize("values", [None, 3, "size", ["size"], [["size", 3]]])
def test_only_an_object_is_a_config(values: object) -> None:
    with pytest.raises(UserError, match="expected an object with fields"):
        Example.from_dict(values)  # type: ignore[arg-type]


def test_replace_changes_what_is_given_and_checks_it() -> None:
    config = Example(3, mode="b")
    assert config.replace(size=4) == Example(4, mode="b")
    assert config == Example(3, mode="b")
    with pytest.raises(UserError, match="size is 99"):
        config.replace(size=99)
    with pytest.raises(UserError, match="unknown field 'sizes'"):
        config.replace(sizes=1)


def test_nearest_orders_hints_by_likeness() -> None:
    assert nearest("gpt2-larg", ["gpt2-medium", "gpt2-large", "vit"]).startswith(": did you mean 'gpt2-large'")
    assert nearest("qqq", ["a", "b"]) == ": known are a, b"


def test_gpt_heads_share_the_width_evenly() -> None:
    with pytest.raises(UserError, match=r"^GPTConfig: width is 30, and must be a multiple of num_heads 4$"):
        GPTConfig(width=30, num_heads=4)


def test_gpt_inner_width_is_four_times_the_width_unless_given() -> None:
    assert GPTConfig(width=24, num_heads=2).inner_width == 96
    assert GPTConfig(width=24, num_heads=2, mlp_width=50).inner_width == 50
