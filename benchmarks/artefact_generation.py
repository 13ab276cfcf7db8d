"""What a token costs, early and late in a text, with each artefact of a language model:

    python -m benchmarks.artefact_generation BUNDLE [--prompt-tokens 8] [--count N]

The cost is linear where a late token takes as long as an early one. Each artefact runs in a fresh process.
"""

import argparse
from pathlib import Path

import numpy as np

from export.manifest import GENERATE, Manifest
from export.verify import continue_prompts

QUARTERS = 4


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--prompt-tokens", type=int, default=8)
    parser.add_argument("--count", type=int, help="new tokens; as many as the context holds where not given")
    arguments = parser.parse_args()
    manifest = Manifest.read(arguments.bundle)
    longest = next(spec["shape"][1]["maximum"] for spec in manifest.inputs if spec["name"] == "token_ids")
    count = arguments.count or longest - arguments.prompt_tokens
    prompt = list(range(1, arguments.prompt_tokens + 1))
    print("| artefact | the prompt, ms | a token in each quarter of the new ones, median ms |")
    print("| --- | ---: | --- |")
    for name, artefact in manifest.artefacts.items():
        if GENERATE in artefact.functions:
            (found,) = continue_prompts(arguments.bundle, name, [prompt], count)
            first, *further = found["milliseconds"]
            quarters = [f"{np.median(part):.2f}" for part in np.array_split(further, QUARTERS)]
            print(f"| {name} | {first:.1f} | {', '.join(quarters)} |", flush=True)


if __name__ == "__main__":
    main()
