"""`zoo generate SOURCE --prompt TEXT`: continue a prompt."""

import dataclasses
import json
import sys
from pathlib import Path
from typing import Annotated

from tyro.conf import Positional, arg

from recipes.command.parsing import parse
from recipes.engine.start import start_tensorflow
from zoo.errors import UserError
from zoo.text.tokenizer import without_surrogates


@dataclasses.dataclass(frozen=True)
class Generate:
    """Continue a prompt. The text goes to standard output, as it is made where that is a terminal."""

    source: Annotated[Positional[Path], arg(metavar="SOURCE")]
    """Model directory, or a run that holds one."""
    prompt: str
    """Text to continue; - reads it from standard input."""
    max_new_tokens: int = 128
    """The most tokens to add."""
    temperature: float = 0.8
    """0 takes the likeliest token each time."""
    top_k: int = 0
    """Draw among that many tokens only; 0 for all."""
    top_p: float = 1.0
    """Draw among the fewest tokens whose probabilities add up to this."""
    seed: int = 0
    """The same seed gives the same text."""
    json: bool = False
    """Print one JSON object with prompt, text and settings."""


def run(arguments: list[str]) -> int:
    settings = parse(Generate, arguments, "zoo generate")
    if settings.max_new_tokens < 1:
        raise UserError(f"--max-new-tokens is {settings.max_new_tokens}, and must be at least 1")
    read = sys.stdin.buffer.read().decode("utf-8", "replace") if settings.prompt == "-" else settings.prompt
    prompt = without_surrogates(read)  # which Python makes of bytes on the command line that are no UTF-8

    start_tensorflow()
    import zoo
    from zoo.generation import Generator, Sampling

    sampling = Sampling(settings.temperature, settings.top_k, settings.top_p, settings.seed)
    generator = Generator(zoo.load(settings.source, task="generate"))
    shown = prompt if sys.stdout.isatty() and not settings.json else ""
    print(shown, end="", flush=True)
    printed = 0

    def show(text: str) -> None:
        nonlocal printed
        # A character may come in several tokens: what ends in a replacement character is not finished yet.
        if not text.endswith("\N{REPLACEMENT CHARACTER}"):
            print(text[printed:], end="", flush=True)
            printed = len(text)

    text = generator.generate_text(prompt, settings.max_new_tokens, sampling, show if shown else None)
    if settings.json:
        record = {**dataclasses.asdict(settings), "source": str(settings.source), "prompt": prompt, "text": text}
        print(json.dumps(record))
    else:
        print(text[printed:] if shown else prompt + text)
    return 0
