"""Make `tests/golden/answers.json`: predictions, answers, and how SQuAD's official measures score them.

Run it with `python tests/golden/make_answers.py`; it needs `transformers` 4 (4.57.6 made what is there), which has the
official script's functions: version 5 has them no more.
"""

import json
import random
from pathlib import Path
from types import SimpleNamespace

from transformers.data.metrics.squad_metrics import get_raw_scores

OUT = Path(__file__).with_name("answers.json")
CASES = 500
# Words that often recur, and what stands between words or only seems to.
WORDS = ["a", "an", "The", "the", "cat", "Cat", "cats", "sat", "é", "É", "İ", "ß", "日本", "1st", "_", "3.5", "“", "—"]
JOINTS = [" ", " ", " ", "  ", "\t", "\n", "\u00a0", "\u3000", "", "-", ".", ", ", "'", "\u2019", "\x00", "\u0301"]


def draw_text(draw: random.Random) -> str:
    return "".join(draw.choice(JOINTS) + draw.choice(WORDS) for _ in range(draw.choice([0, 1, 1, 2, 3, 5, 9])))


def main() -> None:
    draw = random.Random(0)
    cases = []
    for _ in range(CASES):
        prediction, answers = draw_text(draw), [draw_text(draw) for _ in range(draw.randrange(4))]
        example = SimpleNamespace(qas_id="", answers=[{"text": answer} for answer in answers])
        (exact,), (f1,) = (scores.values() for scores in get_raw_scores([example], {"": prediction}))
        cases.append([prediction, answers, exact, f1])
    OUT.write_text("[\n" + ",\n".join(map(json.dumps, cases)) + "\n]\n")


if __name__ == "__main__":
    main()
