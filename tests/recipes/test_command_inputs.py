"""`recipes.command.inputs`: what a verb is asked about."""

import json
import os
import re
from pathlib import Path

import pytest

from recipes.command.inputs import find_images
from recipes.command.printing import as_json
from recipes.data.problems import printable
from zoo.errors import UserError


def test_images_of_folders_and_by_name(tmp_path: Path) -> None:
    """Any file that is named is taken; of a folder those that end as images do and are not hidden, at any depth."""
    for name in ("b.PNG", "a.jpg", "c.txt", ".hidden.png", "deep/er/d.webp", ".thumbnails/e.png"):
        path = tmp_path / "folder" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    found = [each.relative_to(tmp_path / "folder") for each in find_images([str(tmp_path / "folder")], None)]
    assert found == [Path("a.jpg"), Path("b.PNG"), Path("deep/er/d.webp")]
    hidden = tmp_path / "folder" / ".hidden.png"
    listed = tmp_path / "list.txt"
    listed.write_text(f"{hidden}\n")
    assert list(find_images([str(tmp_path / "folder" / "c.txt")], listed)) == [tmp_path / "folder" / "c.txt", hidden]


def test_names_that_are_no_utf_8(tmp_path: Path) -> None:
    name = os.fsdecode(bytes(tmp_path) + b"/caf\xe9.png")
    Path(name).touch()
    listed = tmp_path / "list.txt"
    listed.write_bytes(os.fsencode(name) + b"\r\n")
    assert list(find_images([name], listed)) == [Path(name)] * 2
    line = as_json({"input": name, "label": "café"})
    assert line.endswith('caf\\udce9.png", "label": "café"}') and json.loads(line) == {"input": name, "label": "café"}
    assert printable("café") == "café" and printable(name).endswith("caf\\udce9.png'")


@pytest.mark.parametrize("name", ["none.png", "no/folder", "a" * 5000])
def test_what_is_not_there_is_told_in_a_line(tmp_path: Path, name: str) -> None:
    with pytest.raises(UserError, match=re.escape(name[:200]) + ": there is no such file") as told:
        list(find_images([name], None))
    assert len(str(told.value)) < 300
