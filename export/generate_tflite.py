"""Generate text with a .tflite file of a language model.

    python generate_tflite.py model.tflite --tokenizer tokenizer/tokenizer.json --prompt "Once upon a time"

This file is a program of its own: it needs ai-edge-litert and NumPy, and tokenizers where text is given, and nothing of
the project that wrote the .tflite file. The file has the signatures `decode` and, for the prompt, `prefill_N`:

    prefill_N   token_ids int32 (1, N), position int32 (1,), and the cache: the cache with the N tokens in it
    decode      the same with one token: the cache, and `logits` float32 (1, vocabulary), of the token after

The cache is `key_0`, `value_0`, `key_1`, ..., each float32 (1, heads, slots, head_dim), zeros at first; `position` is
the slot of the first of the tokens.
"""

import argparse
import json
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NoReturn

import numpy as np

PREFILL = "prefill_"
END_OF_TEXT = "<|endoftext|>"


class DeviceGenerator:
    """Generates with one file.

    Args:
        file: a .tflite file with the signature `decode`.
        vocabulary_size: tokens to choose from, where the tokenizer has fewer than the model has logits.
        threads: of the interpreter; its own choice where None.

    Raises:
        ValueError: there is no such file, or it has no such signature.
        ImportError: ai-edge-litert is not installed.
    """

    def __init__(self, file: str | Path, vocabulary_size: int | None = None, threads: int | None = None) -> None:
        from ai_edge_litert.interpreter import Interpreter

        self.interpreter = Interpreter(model_path=str(file), num_threads=threads)
        signatures = self.interpreter.get_signature_list()
        if "decode" not in signatures:
            raise ValueError(f"{file} generates no text: it has no signature 'decode' but {', '.join(signatures)}")
        self.decode = self.interpreter.get_signature_runner("decode")
        sizes = [int(name.removeprefix(PREFILL)) for name in signatures if name.startswith(PREFILL)]
        self.prefills = {
            size: self.interpreter.get_signature_runner(f"{PREFILL}{size}") for size in sorted(sizes, reverse=True)
        }
        inputs = self.decode.get_input_details()
        self.cache_shapes = {n: detail["shape"] for n, detail in inputs.items() if n.startswith(("key_", "value_"))}
        self.slots = int(self.cache_shapes["key_0"][2])
        logits = int(self.decode.get_output_details()["logits"]["shape"][-1])
        self.vocabulary_size = min(logits, vocabulary_size or logits)

    def generate(
        self,
        prompt: Sequence[int],
        count: int,
        temperature: float = 0.0,
        top_k: int = 0,
        seed: int = 0,
        on_token: Callable[[int], None] = lambda token: None,
        top_p: float = 1.0,
        stop: Sequence[int] = (),
    ) -> list[int]:
        """The `count` tokens after `prompt`, or fewer where one of `stop` comes.

        When the cache is full, the last half of what it held is read anew, and generation goes on from there: the cost
        stays linear in `count`.

        Args:
            prompt: token ids, at least one; of more than there are slots the last.
            count: how many tokens.
            temperature: the logits are divided by it; 0 takes the likeliest token.
            top_k: draw among the `top_k` likeliest tokens only; 0 for all.
            seed: the same one draws the same tokens.
            on_token: called with each new token.
            top_p: draw among the fewest of the likeliest tokens whose probabilities add up to `top_p` only; 1 for all.
            stop: it ends before the first of these tokens.

        Raises:
            ValueError: an empty prompt, a token that the model does not have, or a number that is out of range.
        """
        if not len(prompt) or not self._has(prompt):
            raise ValueError(f"a prompt is 1 or more token ids from 0 to {self.vocabulary_size - 1}")
        if not self._has(stop):
            raise ValueError(f"tokens to stop at are ids from 0 to {self.vocabulary_size - 1}")
        numbers = {"count": count, "temperature": temperature, "top_k": top_k, "seed": seed}
        wrong = next((name for name, value in numbers.items() if not value >= 0), None)  # NaN is too
        if wrong is not None:
            raise ValueError(f"{wrong} is {numbers[wrong]}, and must be 0 or more")
        if not 0 < top_p <= 1:
            raise ValueError(f"top_p is {top_p}, and must be above 0 and at most 1")
        rng = np.random.default_rng(seed)
        history, window, end = list(prompt), self.slots, len(prompt) + count
        while len(history) < end:
            seen = history[-window:]
            cache = self._read(seen[:-1])
            filled = len(seen) - 1
            while filled < self.slots and len(history) < end:
                cache = self._run(self.decode, history[-1:], filled, cache)
                filled += 1
                logits = cache.pop("logits")[0, : self.vocabulary_size]
                token = choose_token(logits, temperature, top_k, rng, top_p)
                if token in stop:
                    return history[len(prompt) :]
                history.append(token)
                on_token(token)
            window = max(1, self.slots // 2)
        return history[len(prompt) :]

    def _has(self, tokens: Sequence[int]) -> bool:
        """Whether the model has all of these tokens."""
        return all(isinstance(token, int | np.integer) and 0 <= token < self.vocabulary_size for token in tokens)

    def _read(self, tokens: list[int]) -> dict[str, np.ndarray]:
        """A cache with `tokens` in its first slots."""
        cache = {name: np.zeros(shape, "float32") for name, shape in self.cache_shapes.items()}
        filled = 0
        while filled < len(tokens):
            size = next((size for size in self.prefills if size <= len(tokens) - filled), min(self.prefills, default=1))
            # Nothing is written beyond the last slot, where the operator that writes would move it to the front: a
            # short rest is read with tokens before it once more, which changes nothing, or, where there are too few,
            # with padding behind it, which is overwritten before it is looked at.
            first = max(0, min(filled, len(tokens) - size))
            chunk = tokens[first : first + size]
            runner = self.prefills.get(size, self.decode)
            cache = self._run(runner, chunk + [0] * (size - len(chunk)), first, cache)
            cache.pop("logits", None)
            filled = first + len(chunk)
        return cache

    @staticmethod
    def _run(runner: Any, tokens: list[int], position: int, cache: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        return runner(token_ids=np.array([tokens], "int32"), position=np.array([position], "int32"), **cache)


def choose_token(
    logits: np.ndarray, temperature: float, top_k: int, rng: np.random.Generator, top_p: float = 1.0
) -> int:
    """A token by its logits (vocabulary,); of equally likely ones the lower id comes first."""
    if temperature <= 0:
        return int(np.argmax(logits))
    best = np.argsort(-logits, kind="stable")[: top_k or None]
    scaled = (logits[best].astype("float64") - logits[best[0]]) / temperature
    weights = np.exp(scaled)
    if top_p < 1:  # one is left out where the likelier ones add up to as much
        count = 1 + np.searchsorted(np.cumsum(weights[:-1]), top_p * weights.sum())
        best, weights = best[:count], weights[:count]
    return int(rng.choice(best, p=weights / weights.sum()))


class _Parser(argparse.ArgumentParser):
    """One that tells a mistake in one line."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: error: {' '.join(message.split())}\n")


def _token_ids(text: str) -> list[int]:
    try:
        ids = json.loads(text)
    except (ValueError, RecursionError):
        ids = None
    if not isinstance(ids, list) or any(type(token) is not int for token in ids):
        raise argparse.ArgumentTypeError(f"{text!r:.80} is no list of token ids, as [1, 2, 3] is one")
    return ids


def _load_tokenizer(file: str) -> Any:
    from tokenizers import Tokenizer

    try:
        return Tokenizer.from_file(file)
    except Exception as error:  # it has no class of its own
        raise ValueError(f"{file}: {error}") from error


def main() -> None:
    parser = _Parser(description="Generate text with a .tflite file of a language model.")
    parser.add_argument("model", help="a .tflite file with the signatures decode and prefill_N")
    beginning = parser.add_mutually_exclusive_group(required=True)
    beginning.add_argument("--prompt", help="text to continue; needs --tokenizer")
    beginning.add_argument("--ids", type=_token_ids, help="token ids to continue, as [1, 2, 3]")
    parser.add_argument("--tokenizer", help="the tokenizer.json that belongs to the model")
    parser.add_argument("--count", type=int, default=64, help="tokens to generate, at most (64)")
    parser.add_argument("--temperature", type=float, default=0.0, help="0 takes the likeliest token (0)")
    parser.add_argument("--top-k", type=int, default=0, help="draw among so many tokens; 0 for all (0)")
    parser.add_argument("--top-p", type=float, default=1.0, help="draw among tokens of so much probability (1)")
    parser.add_argument("--seed", type=int, default=0, help="(0)")
    parser.add_argument(
        "--stop",
        type=int,
        action="append",
        metavar="ID",
        help=f"end before this token; can be given several times (the tokenizer's {END_OF_TEXT}, if it has one)",
    )
    arguments = parser.parse_args()
    if arguments.ids is None and arguments.tokenizer is None:
        parser.error("--prompt needs --tokenizer")
    options = {name: getattr(arguments, name) for name in ("count", "temperature", "top_k", "top_p", "seed")}
    ids, stop = arguments.ids, arguments.stop or []
    try:
        if arguments.tokenizer is None:
            print(json.dumps(DeviceGenerator(arguments.model).generate(ids, stop=stop, **options)))
            return
        tokenizer = _load_tokenizer(arguments.tokenizer)
        if ids is None:
            prompt = os.fsencode(arguments.prompt).decode(errors="replace")  # what is no UTF-8 it does not take
            ids = tokenizer.encode(prompt, add_special_tokens=False).ids
        if not stop and (end := tokenizer.token_to_id(END_OF_TEXT)) is not None:
            stop = [end]
        generator = DeviceGenerator(arguments.model, tokenizer.get_vocab_size())
        print(tokenizer.decode(ids + generator.generate(ids, stop=stop, **options)))
    except ImportError as error:
        parser.error(f"{error}: pip install ai-edge-litert tokenizers")
    except ValueError as error:
        parser.error(str(error))


if __name__ == "__main__":
    main()
