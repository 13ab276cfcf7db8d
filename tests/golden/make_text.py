"""Makes `tests/golden/text/` with transformers: tiny tokenizers as it saves them, and what they make of hard strings.

    python tests/golden/make_text.py

Needs transformers 5; running it again with the same version changes nothing. In each folder of a tokenizer lie the
files that transformers 5 writes (tokenizer.json, tokenizer_config.json) and those of older checkpoints (vocab.txt, or
vocab.json and merges.txt). `cases.json` holds the strings and the reference's answers.
"""

import json
import shutil
import string
import unicodedata
from collections import Counter
from itertools import pairwise
from pathlib import Path
from typing import Any

import regex
import transformers

OUT = Path(__file__).with_name("text")

PROSE = """
The quick brown fox jumps over the lazy dog, and the dog, being lazy, is not running after the fox. A photo of a cat;
two photos of two cats, sitting on the mat. It's what we've been told: they're walking, we're talking, I'll be back,
he'd go, she isn't coming, and I'm done. Questions and answers: who wrote the longest sentence? When the model reads a
token, the token becomes a number; when it writes a number, the number becomes a token. Reading, writing, counting and
sorting are tested; unhappiness, happily, happier, happy. In 1984 there were 12 monkeys, in 2001 there was 1 odyssey.
"""

TEXTS = [
    "",
    " ",
    "   ",
    "\n",
    "\t \r\n \x0b\x0c",
    "\u3000\u2003\u00a0",
    "Hello, world!",
    "The quick brown fox jumps over the lazy dog.",
    "I'll say it's John's; they've, we'd: WE'LL ''s ' don't",
    "dogs 's and ' re !!'ve",
    "  two  spaces   three ",
    "a\nb\n\nc\n\n\n d\t\te",
    "\r\n crlf\r\n",
    "tab\tand\x0bvt\x0cff \x1c\x1d\x1e\x1f \x7f\x80\x85\x9f end",
    "a\x00b \x00 c",
    "\x01\x02\x03",
    "soft\u00adhyphen zero\u200bwidth word\u2060joiner \ufeffbom \u200e\u200f marks \u061c",
    "12345 3.14 1,000 ²³ ½ Ⅷ a1b2 ١٢٣ １２３",
    "naïve café Ünïcödé ſ ǅ ﬁ ﬀ ʼn’s “quoted”",
    "Å ÅNGSTRÖM \u212b A\u030a É E\u0301",
    "İstanbul ISTANBUL ıI ΑΣΣΟΣ σς ẞß ŉ",
    "e\u0301 \u0301\u0301 combining, and stacked Z\u0351\u036b\u0343 a\u0328\u0301 a\u0301\u0328",
    "日本語のテキスト。 か\u3099が 한국어 \u1112\u1161\u11ab ไทย นมัสเต नमस्ते",
    "中文字符没有空格，English mixed中文in 𠀀𫝀 豈 〇々",
    "مرحبا بالعالم مَرْحَبًا \u202eשלום\u202c שָׁלוֹם",
    "😀😃 👨‍👩‍👧 🏳️‍🌈 \U0001f3fd 🇯🇵 ☃️",
    "\u200b\u200d\ufeff\u180e\u2060x",
    "\u00a0nbsp\u2003em\u3000ideographic\u2028ls\u2029ps\u1680ogham",
    "\ue000\U000f0000 private",
    "\ufffe\uffff\U0010ffff\ufdd0 non-characters, \ufffd",
    "𝓗𝓮𝓵𝓵𝓸 ℌ ﷺ Ａｂｃ",
    "[CLS] [SEP] [MASK] [UNK] [PAD]",
    "a[SEP]b [cls] [ MASK ] [MASK",
    "<|startoftext|>a<|endoftext|>b <|endoftext|> <|endof",
    "<|STARTOFTEXT|>!! a<|EndOfText|>b",
    "##ing a##b # # </w> a</w> cat</w>",
    "Ġ Ċ Ā âĢĻ",
    "x" * 100,
    "x" * 101,
    "日" * 40 + "é" * 101,
    "unhappiness happily unrunning xylophonics",
    "_$%^&*()!@#~` one-two…three — four ¿qué? «oui» ¡sí! 3×4÷2 ©®™ €£¥ ^ ` | < = > + ~ $",
    "def f(x):\n    return {'a': [1, 2]}  # _under_score--dash__\n",
    "https://example.org/a?b=c&d=%20e#f user@mail.com",
]

PAIRS = [
    ("Who wrote the longest sentence?", "The quick brown fox jumps over the lazy dog, and wrote it."),
    ("A much longer text than the other, reading and counting and sorting.", "Short."),
    ("the same and the same", "the same and the same"),
    ("", "only a pair"),
    ("no pair", ""),
    ("naïve [SEP] 日本", "😀 e\u0301 x"),
]
# truncation, padding, max_length; each fits all the pairs above, or else transformers refuses
PAIR_SETTINGS = [
    ("longest_first", "longest", 64),
    ("longest_first", "max_length", 64),
    ("longest_first", "longest", 17),
    ("longest_first", "max_length", 12),
    ("longest_first", "longest", 7),
    ("longest_first", "longest", 4),
]


def characters_of(texts: list[str]) -> list[str]:
    """Every character of the texts, in each of the forms that a normalization can give it."""
    found = set()
    for text in texts:
        for form in (text, unicodedata.normalize("NFD", text)):
            found |= {character for each in (form, form.lower()) for character in each if not character.isspace()}
    return sorted(character for character in found if unicodedata.category(character) != "Cn")


def wordpiece_vocabulary() -> list[str]:
    words = Counter(regex.findall(r"\w+", PROSE) + regex.findall(r"\w+", PROSE.lower()))
    characters = characters_of([string.printable, *TEXTS[:36]])  # those of the others are unknown
    pieces = [
        "##ing",
        "##ed",
        "##s",
        "##er",
        "##ly",
        "##ness",
        "un",
        "##un",
        "happi",
        "##happi",
        "café",
        "cafe",
        "##日",
    ]
    tokens = ["[PAD]", "[unused0]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *characters]
    tokens += [f"##{character}" for character in characters if character.isalnum()]
    return list(dict.fromkeys([*tokens, *sorted(words), *pieces]))


def learn_merges(words: Counter[tuple[str, ...]], count: int) -> list[tuple[str, str]]:
    """Byte-pair encoding as in Sennrich et al., 2016; of equally frequent pairs the first in order."""
    merges: list[tuple[str, str]] = []
    while len(merges) < count:
        pairs: Counter[tuple[str, str]] = Counter()
        for word, often in words.items():
            for pair in pairwise(word):
                pairs[pair] += often
        best = min(pairs, key=lambda pair: (-pairs[pair], pair))
        merges.append(best)
        merged: Counter[tuple[str, ...]] = Counter()
        for word, often in words.items():
            parts: list[str] = []
            for part in word:
                if parts and (parts[-1], part) == best:
                    parts[-1] += part
                else:
                    parts.append(part)
            merged[tuple(parts)] += often
        words = merged
    return merges


def byte_alphabet() -> list[str]:
    shown = [*range(33, 127), *range(161, 173), *range(174, 256)]
    return [chr(byte) for byte in shown] + [chr(256 + n) for n in range(256 - len(shown))]


def gpt2() -> Any:
    words = Counter(tuple(word.replace(" ", "Ġ").replace("\n", "Ċ")) for word in regex.findall(r" ?\p{L}+|\S", PROSE))
    words.update({("Ġ",) * 4: 9, ("Ċ",) * 4: 9, ("Ċ", "Ġ"): 9})  # what white space is split into shows in the ids
    merges = learn_merges(words, 150)
    tokens = [*byte_alphabet(), *("".join(pair) for pair in merges), "<|endoftext|>"]
    return transformers.GPT2Tokenizer(
        vocab={token: number for number, token in enumerate(tokens)},
        merges=merges,
        pad_token="<|endoftext|>",  # without one transformers pads nothing
        model_max_length=64,
    )


def clip() -> Any:
    words = Counter((*word[:-1], f"{word[-1]}</w>") for word in regex.findall(r"'s|'re|\p{L}+", PROSE.lower()))
    merges = learn_merges(words, 150)
    alphabet = byte_alphabet()
    tokens = [*alphabet, *(f"{letter}</w>" for letter in alphabet), *("".join(pair) for pair in merges)]
    tokens += ["<|startoftext|>", "<|endoftext|>"]
    vocabulary = {token: number for number, token in enumerate(tokens)}
    return transformers.CLIPTokenizer(vocab=vocabulary, merges=merges, model_max_length=77)


def bert(**settings: Any) -> Any:
    vocabulary = {token: number for number, token in enumerate(wordpiece_vocabulary())}
    return transformers.BertTokenizer(vocab=vocabulary, model_max_length=512, **settings)


def make_tokenizers() -> dict[str, Any]:
    return {
        "bert-uncased": bert(),
        "bert-cased": bert(do_lower_case=False),
        "bert-accents": bert(strip_accents=False, tokenize_chinese_chars=False),
        "bert-cased-stripped": bert(do_lower_case=False, strip_accents=True),
        "gpt2": gpt2(),
        "clip": clip(),
    }


def save(tokenizer: Any, directory: Path) -> None:
    tokenizer.save_pretrained(directory)
    backend = tokenizer.backend_tokenizer
    if type(backend.model).__name__ == "WordPiece":
        vocabulary = tokenizer.get_vocab()
        (directory / "vocab.txt").write_text(
            "".join(f"{token}\n" for token in sorted(vocabulary, key=vocabulary.get)), encoding="utf-8"
        )
    else:
        backend.model.save(str(directory))


def answers(tokenizer: Any) -> dict[str, Any]:
    """What the reference makes of every text."""
    batch = tokenizer(TEXTS, return_offsets_mapping=True)
    names = tokenizer.special_tokens_map
    return {
        "special": {name: tokenizer.convert_tokens_to_ids(token) for name, token in names.items()},
        "token_ids": batch["input_ids"],
        "offsets": batch["offset_mapping"],
        "decoded": [tokenizer.decode(ids[:-1], clean_up_tokenization_spaces=False) for ids in batch["input_ids"]],
    }


def pair_answers(tokenizer: Any) -> list[dict[str, Any]]:
    """What the reference makes of the pairs, under each setting."""
    firsts, seconds = map(list, zip(*PAIRS, strict=True))
    records = []
    for truncation, padding, max_length in PAIR_SETTINGS:
        batch = tokenizer(
            firsts, seconds, truncation=truncation, padding=padding, max_length=max_length, return_offsets_mapping=True
        )
        sequence_ids = [[-1 if n is None else n for n in batch.sequence_ids(row)] for row in range(len(firsts))]
        records.append(
            {
                "settings": {"truncation": truncation, "padding": padding, "max_length": max_length},
                "token_ids": batch["input_ids"],
                "padding_mask": batch["attention_mask"],
                "segment_ids": batch.get("token_type_ids"),
                "offsets": batch["offset_mapping"],
                "sequence_ids": sequence_ids,
            }
        )
    return records


def main() -> None:
    shutil.rmtree(OUT, ignore_errors=True)
    tokenizers = make_tokenizers()
    for name, tokenizer in tokenizers.items():
        save(tokenizer, OUT / name)
    cases = {
        "made_with": f"transformers {transformers.__version__}",
        "texts": TEXTS,
        "pairs": PAIRS,
        "answers": {name: answers(tokenizer) for name, tokenizer in tokenizers.items()},
        "pair_answers": {name: pair_answers(tokenizers[name]) for name in ("bert-uncased", "gpt2", "clip")},
    }
    lines = json.dumps(cases, separators=(",", ":"))  # ASCII: no editor or tool mangles what is in it
    (OUT / "cases.json").write_text(f"{lines}\n")


if __name__ == "__main__":
    main()
