"""The run directory: where a run leaves everything, and from where the same command goes on."""

import contextlib
import dataclasses
import fcntl
import functools
import json
import logging
import os
import typing
from collections.abc import Iterable, Iterator
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from recipes.engine.checkpoint import Checkpoint, Store
from zoo.errors import UserError
from zoo.files import read_json, remove_remains, require_free, require_outside, whole_directory, write_text

logger = logging.getLogger("zoo")

RECORD = "recipe.json"
SUMMARY = "summary.md"  # what is written last
PACKAGES = ("tensorflow", "keras", "keras-cv", "numpy", "pillow", "tokenizers", "tf-model-zoo")
FREE = frozenset({"out", "json", "force", "restart"})  # of every recipe


def require_run_directory(out: Path, restart: bool, inputs: Iterable[Path | None] = ()) -> None:
    """Raise UserError unless `out` is free, or holds a run to go on with, or, with `restart`, one to be thrown away in
    which none of the `inputs` lies."""
    if out.is_dir() and any(out.iterdir()) and not (out / RECORD).is_file():
        raise UserError(f"{out} is not empty, and holds no run (it has no {RECORD}): choose another name")
    require_free(out, force=True)
    if restart:
        require_outside(out, inputs)


@dataclasses.dataclass(frozen=True)
class Run:
    """One run of a recipe, before anything heavy is imported.

    Args:
        directory: where it is, or is to be.
        recipe: the name.
        settings: the dataclass of its settings, with `training`, `force` and `restart` among them. A dataclass in it
            may name in `free` those of its fields that can change when a run goes on.
        facts: what was found in the data, for the record; the one named `data` is a fingerprint that must not change.
    """

    directory: Path
    recipe: str
    settings: Any
    facts: dict[str, Any]
    _changes: list[str] = dataclasses.field(default_factory=list, init=False, repr=False)

    @functools.cached_property
    def goes_on(self) -> bool:
        """Whether there is a run that this one is to go on with; a UserError where it may not.

        Raises:
            UserError: `recipe.json` is damaged; the run is of another recipe, or of other data, or differs in a setting
                that matters and `force` is not given.
        """
        path = self.directory / RECORD
        if self.settings.restart or not path.is_file():
            return False
        record = read_json(path)
        try:
            recorded, facts = _leaves(record["settings"]), record["facts"]
            recipe, versions = record["recipe"], dict(record["versions"])
            fingerprint = facts["data"]
        except (KeyError, TypeError, ValueError, AttributeError, RecursionError) as error:
            raise UserError(
                f"{path} is damaged ({type(error).__name__}: {error}): put it back, or begin anew with --restart"
            ) from None
        if recipe != self.recipe:
            raise UserError(f"{self.directory} holds a run of {recipe!r:.80}: choose another --out, or --restart")
        options, wanted = _options(type(self.settings)), _leaves(_plain(self.settings))
        for name in sorted(recorded.keys() ^ wanted.keys()):
            raise UserError(
                f"{path} {'has no' if name in wanted else 'has a'} setting {name!r:.80}: it was made by another "
                "version, or is damaged; finish the run with that version, or begin anew with --restart"
            )
        by_epochs = any(leaves.get("epochs") is not None for leaves in (recorded, wanted))
        for name, value in wanted.items():
            if value == recorded[name] or name in _free(self.settings):
                continue
            if name == "steps" and by_epochs:
                continue  # they follow from other settings, and from the data
            if not self.settings.force:
                raise UserError(
                    f"--{options[name]} is {value}, and the run in {self.directory} has {recorded[name]!s:.80}: "
                    "give that to go on with it, --force to go on with the changed one, or --restart to begin anew"
                )
            self._changes.append(f"--{options[name]} was {recorded[name]!s:.80} until now, and is {value} from here on")
        if fingerprint != self.facts["data"]:
            raise UserError(
                f"the data is not what the run in {self.directory} was trained on: "
                "give that, choose another --out, or begin anew with --restart"
            )
        for package, before in versions.items():
            if package in PACKAGES and before != (now := _version(package)):
                self._changes.append(f"the run was begun with {package} {before!s:.40}, and goes on with {now}")
        return True

    def finished(self) -> Checkpoint | None:
        """The last checkpoint of a run that has nothing left to do; None for any other."""
        newest = self.store.newest() if self.goes_on else None
        if newest is None or newest.state.step < self.settings.training.steps:
            return None
        if not (self.directory / SUMMARY).is_file():
            return None  # it was stopped while the pages to look at were written
        if newest.state.step > self.settings.training.steps or newest.state.mid_interval:
            raise UserError(
                f"the run in {self.directory} is at step {newest.state.step:,} already: "
                "give more --steps, or begin anew with --restart"
            )
        return newest

    @functools.cached_property
    def store(self) -> Store:
        """Its checkpoints."""
        return Store(self.directory / "checkpoints", self.settings.training.keep_last)

    @contextlib.contextmanager
    def opened(self) -> Iterator[None]:
        """Make the run directory, or open the one that is to be gone on with, and hold it against other processes.

        Raises:
            UserError: another process has it.
        """
        with contextlib.ExitStack() as held:
            if self.directory.is_dir():
                held.enter_context(_alone(self.directory))
            if not self.goes_on:
                with whole_directory(self.directory, force=self.settings.restart, marker=RECORD) as partial:
                    (partial / RECORD).write_text(self._record(), encoding="utf-8")
                held.enter_context(_alone(self.directory))
            for directory in (self.directory, self.store.directory):
                if directory.is_dir():
                    remove_remains(directory)
            remove_remains(self.directory.resolve().parent, self.directory.resolve().name)
            yield

    def take_over(self) -> None:
        """What differs from the run as it was is told, and the run's own from now on."""
        for change in self._changes:
            logger.warning("%s", change)
        write_text(self.directory / RECORD, self._record())

    def _record(self) -> str:
        record = {
            "recipe": self.recipe,
            "settings": _plain(self.settings),
            "versions": {package: _version(package) for package in PACKAGES},
            "facts": self.facts,
        }
        return json.dumps(record, indent=2, ensure_ascii=False) + "\n"


def _version(package: str) -> str | None:
    """Of an installed package; None where it is not there, as some need not be."""
    try:
        return version(package)
    except PackageNotFoundError:
        return None


@contextlib.contextmanager
def _alone(directory: Path) -> Iterator[None]:
    """Hold a directory until the block, or the process, ends."""
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UserError(f"another process trains in {directory}: wait for it, or choose another --out") from None
        yield
    finally:
        os.close(descriptor)


def _plain(settings: Any) -> dict[str, Any]:
    """The settings as JSON's values."""
    plain: dict[str, Any] = json.loads(json.dumps(dataclasses.asdict(settings), default=str))
    return plain


def _leaves(settings: dict[str, Any]) -> dict[str, Any]:
    """The settings by their own names, as the command line has them, wherever they are nested."""
    leaves: dict[str, Any] = {}
    for name, value in settings.items():
        leaves |= _leaves(value) if isinstance(value, dict) else {name: value}
    return leaves


def _free(settings: Any) -> frozenset[str]:
    names = FREE | getattr(settings, "free", frozenset())
    for field in dataclasses.fields(settings):
        value = getattr(settings, field.name)
        if dataclasses.is_dataclass(value):
            names |= _free(value)
    return names


def _options(settings: type) -> dict[str, str]:
    """By name of a setting, that of its option without the dashes."""
    options: dict[str, str] = {}
    for name, kind in typing.get_type_hints(settings, include_extras=True).items():
        if dataclasses.is_dataclass(kind):
            options |= _options(typing.cast(type, kind))
            continue
        given = [each.name for each in getattr(kind, "__metadata__", ()) if getattr(each, "name", None)]
        options[name] = (given or [name])[0].replace("_", "-")
    return options
