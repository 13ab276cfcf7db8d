"""Checkpoints from the Hugging Face hub, named `hf:organisation/name[@revision]`."""

import re
from pathlib import Path

from zoo.errors import UserError
from zoo.files import read_json
from zoo.tensors import conversion

PREFIX = "hf:"
# Neither code nor pickles are fetched.
FILES = ("*.json", "*.safetensors", "vocab.txt", "merges.txt")
_NAME = re.compile(r"hf:(?P<repository>[\w.-]+(/[\w.-]+)?)(@(?P<revision>[\w./-]+))?")


def fetch(source: str) -> Path:
    """Fetch what `hf:organisation/name[@revision]` stands for, or find it in the cache of `huggingface_hub`.

    Returns:
        The directory that holds it.

    Raises:
        UserError: the name is no such name, or there is no such repository or revision, or it cannot be reached.
    """
    match = _NAME.fullmatch(source)
    if match is None:
        raise UserError(f"{source!r:.120} is not the name of a checkpoint: expected hf:organisation/name[@revision]")
    import huggingface_hub
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    try:
        directory = huggingface_hub.snapshot_download(
            match["repository"], revision=match["revision"], allow_patterns=list(FILES)
        )
    except HFValidationError as error:
        raise UserError(f"{source}: {_first_line(error)}") from None
    except LocalEntryNotFoundError:
        raise UserError(f"{source}: the hub cannot be reached, and the checkpoint is not in the cache") from None
    # Its bases are the HTTP library's own errors, such as that of a proxy.
    except (HfHubHTTPError, *HfHubHTTPError.__bases__, OSError) as error:  # type: ignore[misc]
        raise UserError(f"{source}: cannot be fetched: {_first_line(error)}") from None
    path = Path(directory)
    if not any(path.glob("*.safetensors")):
        config = path / "config.json"
        name = match["repository"].rpartition("/")[2]
        raise UserError(
            f"{source}: holds no safetensors, and what can run code is not fetched: "
            f"{conversion(match['repository'], f'{name}-safetensors', read_json(config) if config.exists() else None)}"
        )
    return path


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
