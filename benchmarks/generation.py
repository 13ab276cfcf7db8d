"""Time per new token with the cache, and by full passes: the first is to stay level, the second to grow.

python benchmarks/generation.py --preset gpt2 --tokens 64 128 256
"""

import argparse
import json
import time

import numpy as np
import tensorflow as tf

import zoo
from zoo.generation import Generator


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--preset", default="gpt-mini")
    parser.add_argument("--tokens", type=int, nargs="+", default=[64, 128, 256])
    parser.add_argument("--prompt-length", type=int, default=16)
    settings = parser.parse_args()
    longest = settings.prompt_length + max(settings.tokens)
    model = zoo.create(settings.preset, max_length=max(longest, 64))
    prompt = np.random.default_rng(0).integers(0, model.config.vocabulary_size, settings.prompt_length).tolist()
    generator = Generator(model)

    @tf.function(reduce_retracing=True)
    def last_token(ids: tf.Tensor) -> tf.Tensor:
        return tf.argmax(model({"token_ids": ids}, training=False)["logits"][0, -1], output_type=tf.int32)

    def uncached(count: int) -> list[int]:
        ids = list(prompt)
        for _ in range(count):
            ids.append(int(last_token(tf.constant([ids], tf.int32))))
        return ids[len(prompt) :]

    for count in settings.tokens:
        row: dict[str, object] = {"preset": settings.preset, "new_tokens": count}
        texts = []
        for name, make in (
            ("cached", lambda n=count: generator.generate([prompt], n)[0]),
            ("uncached", lambda n=count: uncached(n)),
        ):
            make()  # traces
            began = time.perf_counter()
            texts.append(make())
            row[f"{name}_ms_per_token"] = round((time.perf_counter() - began) / count * 1e3, 2)
        row["same_tokens"] = texts[0] == texts[1]
        print(json.dumps(row))


if __name__ == "__main__":
    main()
