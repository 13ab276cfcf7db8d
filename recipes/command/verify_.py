"""`zoo verify BUNDLE`: run every artefact in its own runtime and compare with the model it was exported from."""

import dataclasses
from pathlib import Path
from typing import Annotated

from tyro.conf import Positional, arg

from recipes.command.parsing import parse


@dataclasses.dataclass(frozen=True)
class Verify:
    """Run every artefact of a bundle in its own runtime, in a process without this project, and compare it with the
    model it was exported from. Rewrites report.json and report.md; exits with 1 if one is out of tolerance."""

    bundle: Annotated[Positional[Path], arg(metavar="BUNDLE")]
    """What `zoo export` wrote."""
    json: bool = False
    """Print the report as one JSON object."""


def run(arguments: list[str]) -> int:
    settings = parse(Verify, arguments, "zoo verify")

    from export.verify import verify_bundle
    from recipes.command.reporting import print_report, tell

    report = verify_bundle(settings.bundle, tell)
    print_report(report, as_json=settings.json)
    return 0 if report.passed else 1
