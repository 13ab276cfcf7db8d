"""Generate text with a .tflite file of a language model: `python generate_tflite.py model.tflite --prompt TEXT`.

This file is a program of its own: it needs ai-edge-litert and NumPy, and tokenizers where text is given, and nothing of
the project that wrote the .tflite file. The file has the signatures `decode` and, for the prompt, `prefill_N`:

    prefill_N   token_ids int32 (1, N), position int32 (1,), and the cache: the cache with the N tokens in it
    decode      the same with one token: the cache, and `logits` float32 (1, vocabulary), of the token after

The cache is `key_0`, `value_0`, `key_1`, ..., each float32 (1, heads, slots, head_dim), zeros at first; `position` is
the slot of the first of the tokens.
"""

import argparse
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from ai_edge_litert.interpreter import Interpreter

PREFILL = "prefill_"


class DeviceGenerator:
    """Generates with one file.

    Args:
        file: a .tflite file with the signature `decode`.
        vocabulary_size: tokens to choose from, where the tokenizer has fewer than the model has logits.
        threads: of the interpreter; its own choice where None.

    Raises:
        ValueError: the file has no such signature.
    """

    def __init__(self, file: str | Path, vocabulary_size: int | None = None, threads: int | None = None) -> None:
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
    ) -> list[int]:
        """The `count` tokens after `prompt`.

        When the cache is full, the last half of what it held is read anew, and generation goes on from there: the cost
        stays linear in `count`.

        Args:
            prompt: token ids, at least one; of more than there are slots the last.
            count: how many tokens.
            temperature: the logits are divided by it; 0 takes the likeliest token.
            top_k: draw among the `top_k` likeliest tokens only; 0 for all.
            seed: the same one draws the same tokens.
            on_token: called with each new token.

        Raises:
            ValueError: an empty prompt, or a token that the model does not have.
        """
        if not len(prompt) or not all(0 <= token < self.vocabulary_size for token in prompt):
            raise ValueError(f"a prompt is 1 or more token ids from 0 to {self.vocabulary_size - 1}")
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
                history.append(choose_token(logits, temperature, top_k, rng))
                on_token(history[-1])
            window = max(1, self.slots // 2)
        return history[len(prompt) :]

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


def choose_token(logits: np.ndarray, temperature: float, top_k: int, rng: np.random.Generator) -> int:
    """A token by its logits (vocabulary,); of equally likely ones the lower id comes first."""
    if temperature <= 0:
        return int(np.argmax(logits))
    best = np.argsort(-logits, kind="stable")[: top_k or None]
    scaled = (logits[best].astype("float64") - logits[best[0]]) / temperature
    weights = np.exp(scaled)
    return int(rng.choice(best, p=weights / weights.sum()))


def main() -> None:
    parser = argparse.ArgumentParser(description="Generate text with a .tflite file of a language model.")
    parser.add_argument("model", help="a .tflite file with the signatures decode and prefill_N")
    prompt = parser.add_mutually_exclusive_group(required=True)
    prompt.add_argument("--prompt", help="text to continue; needs --tokenizer")
    prompt.add_argument("--ids", type=json.loads, help="token ids to continue, as [1, 2, 3]")
    parser.add_argument("--tokenizer", help="the tokenizer.json that belongs to the model")
    parser.add_argument("--count", type=int, default=64, help="tokens to generate (64)")
    parser.add_argument("--temperature", type=float, default=0.0, help="0 takes the likeliest token (0)")
    parser.add_argument("--top-k", type=int, default=0, help="draw among so many tokens; 0 for all (0)")
    parser.add_argument("--seed", type=int, default=0, help="(0)")
    arguments = parser.parse_args()
    options = {"temperature": arguments.temperature, "top_k": arguments.top_k, "seed": arguments.seed}
    try:
        if arguments.tokenizer is None:
            if arguments.ids is None:
                parser.error("--prompt needs --tokenizer")
            print(json.dumps(DeviceGenerator(arguments.model).generate(arguments.ids, arguments.count, **options)))
            return
        from tokenizers import Tokenizer

        tokenizer = Tokenizer.from_file(arguments.tokenizer)
        ids = arguments.ids
        if ids is None:
            ids = tokenizer.encode(arguments.prompt, add_special_tokens=False).ids
        generator = DeviceGenerator(arguments.model, tokenizer.get_vocab_size())
        print(tokenizer.decode(list(ids) + generator.generate(ids, arguments.count, **options)))
    except ValueError as error:
        parser.error(str(error))


if __name__ == "__main__":
    main()
