"""`zoo bench BUNDLE`: how fast every artefact is beside the Keras model, and how large."""

import dataclasses
from pathlib import Path
from typing import Annotated

from tyro.conf import Positional, arg

from recipes.command.parsing import parse
from zoo.errors import UserError


@dataclasses.dataclass(frozen=True)
class Bench:
    """Time every artefact of a bundle beside the Keras model: each in turn, in a fresh process, several times over.
    Writes bench.json, bench.md and bench.png into the bundle."""

    bundle: Annotated[Positional[Path], arg(metavar="BUNDLE")]
    """What `zoo export` wrote."""
    batch: tuple[int, ...] = (1,)
    """Batch sizes."""
    tokens: tuple[int, ...] = ()
    """Lengths of texts; without any, at most 128."""
    rounds: int = 3
    """How often everything is measured; what is shown are medians."""
    seconds: float = 1.0
    """To spend on each shape of each artefact, each time."""
    json: bool = False
    """Print the result as one JSON object."""


def run(arguments: list[str]) -> int:
    settings = parse(Bench, arguments, "zoo bench")
    for name in ("batch", "tokens", "rounds"):
        value = getattr(settings, name)
        if min(value if isinstance(value, tuple) else (value,), default=1) < 1:
            raise UserError(f"--{name} is {value}, and must be 1 or more")
    if not 0 < settings.seconds < 3600:
        raise UserError(f"--seconds is {settings.seconds}, and must be above 0 and below an hour")

    from export.bench import bench_bundle
    from recipes.command.reporting import print_bench, progress

    with progress("timing") as show:
        found = bench_bundle(
            settings.bundle,
            batches=settings.batch,
            tokens=settings.tokens,
            rounds=settings.rounds,
            seconds=settings.seconds,
            progress=show,
        )
    print_bench(found, as_json=settings.json)
    return 1 if found.failures else 0
