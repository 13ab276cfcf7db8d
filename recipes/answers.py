"""How near an answer comes to those that people gave: the two measures of SQuAD.

They are those of the official `evaluate-v2.0.py` (Rajpurkar, Jia and Liang 2018; Rajpurkar et al. 2016, section 6.1),
and of `evaluate-v1.1.py`: the two are alike where each answer has a word besides articles. Over a data set either is
the mean over its questions.
"""

import re
import string
from collections import Counter
from collections.abc import Sequence

_ARTICLES = re.compile(r"\b(a|an|the)\b")
_WITHOUT_PUNCTUATION = str.maketrans("", "", string.punctuation)  # of ASCII alone, as there


def exact_match(prediction: str, answers: Sequence[str]) -> float:
    """1 if the prediction is one of the answers but for case, punctuation, articles and white space, else 0.

    Args:
        prediction: what is measured; "" says that there is no answer.
        answers: any of them would be right; none for a question that has no answer.
    """
    words = _words(prediction)
    return float(any(words == answer for answer in _known(answers)))


def f1(prediction: str, answers: Sequence[str]) -> float:
    """The harmonic mean of precision and recall of the prediction's words, for the answer for which it is highest.

    Where there is no answer, or the prediction says so, it is `exact_match`.

    Args:
        prediction, answers: as for `exact_match`.
    """
    words = _words(prediction)
    return max(_overlap(words, answer) for answer in _known(answers))


def _overlap(words: list[str], answer: list[str]) -> float:
    if not words or not answer:
        return float(words == answer)
    same = (Counter(words) & Counter(answer)).total()
    return 2.0 * same / (len(words) + len(answer))


def _known(answers: Sequence[str]) -> list[list[str]]:
    """The words of each answer that has any; none at all for a question without an answer."""
    return [words for answer in answers if (words := _words(answer))] or [[]]


def _words(text: str) -> list[str]:
    # Articles last, and between spaces: that of "a.m." is none.
    return _ARTICLES.sub(" ", text.lower().translate(_WITHOUT_PUNCTUATION)).split()
