"""`zoo explain`: what is explained for each task, the picture, the numbers, and how mistakes are taken."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import zoo
from recipes.command import run
from recipes.explanation import explain as explaining
from recipes.explanation.drawing import draw
from recipes.explanation.explain import explain
from recipes.explanation.lettering import UNKNOWN, letter, letter_token, measure, wrap
from recipes.explanation.target import Question, name_token
from zoo.errors import UserError
from zoo.image import Preprocessing
from zoo.text import Tokenizer, train_bpe, train_wordpiece

GOLDEN = Path(__file__).parents[1] / "golden" / "text"
SENTENCES = ["the cat sat on the mat", "a dog ran to the red house", "who sat on the mat ?"]
TEXT = "the cat sat on the red mat"


@pytest.fixture(scope="module")
def wordpiece() -> Tokenizer:
    return train_wordpiece(SENTENCES, 128)


@pytest.fixture(scope="module")
def bert(enliven: Any, wordpiece: Tokenizer) -> Any:
    """`bert(task)`: a lively BERT with a tokenizer."""

    def make(task: str, **overrides: Any) -> Any:
        model = enliven(
            zoo.create("bert-nano", task=task, vocabulary_size=140, max_length=32, depth=2, num_classes=3, **overrides)
        )
        model.tokenizer = wordpiece
        return model

    return make


@pytest.fixture(scope="module")
def gpt(enliven: Any) -> Any:
    model = enliven(zoo.create("gpt-nano", vocabulary_size=300))
    model.tokenizer = train_bpe(SENTENCES, 270)
    return model


@pytest.fixture(scope="module")
def classifier(bert: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The directory of a BERT that classifies."""
    model = bert("classify")
    model.labels = ("good", "bad", "1")
    directory = tmp_path_factory.mktemp("models") / "bert"
    zoo.save(model, directory)
    return directory


@pytest.fixture(scope="module")
def vision(enliven: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    model = enliven(zoo.create("vit-nano", image_size=(16, 24), patch_size=8, num_classes=3))
    model.preprocessing = Preprocessing.for_vit(16, 24)
    directory = tmp_path_factory.mktemp("models") / "vit"
    zoo.save(model, directory)
    return directory


@pytest.fixture(scope="module")
def clip(enliven: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    tokenizer = Tokenizer.load(GOLDEN / "clip")
    text = {"vocabulary_size": tokenizer.vocabulary_size, "max_length": 16}
    model = enliven(zoo.create("clip-nano", text=text, end_token=tokenizer.special_ids["end"]))
    model.tokenizer, model.preprocessing = tokenizer, Preprocessing.for_clip(32)
    directory = tmp_path_factory.mktemp("models") / "clip"
    zoo.save(model, directory)
    return directory


@pytest.fixture(scope="module")
def picture(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An image file of two halves."""
    pixels = np.zeros((40, 60, 3), "uint8")
    pixels[:, 30:] = (250, 120, 10)
    path = tmp_path_factory.mktemp("images") / "halves.png"
    Image.fromarray(pixels).save(path)
    return path


def answer(capsys: pytest.CaptureFixture[str], *arguments: object) -> dict[str, Any]:
    """The JSON object that a command prints."""
    code = run([str(argument) for argument in (*arguments, "--json")])
    captured = capsys.readouterr()
    assert code == 0, captured.err
    assert "WARNING" not in captured.err
    return json.loads(captured.out)


def refuse(capsys: pytest.CaptureFixture[str], *arguments: object) -> str:
    """The line on standard error in which a command ends."""
    code = run([str(argument) for argument in arguments])
    captured = capsys.readouterr()
    assert code == 2
    assert captured.out == ""
    (line,) = captured.err.splitlines()
    return line


def assert_picture(path: Path, height: int) -> np.ndarray:
    """A PNG at least 1000 wide and `height` high, neither blank nor cut off at its edges."""
    with Image.open(path) as image:
        assert image.format == "PNG"
        pixels = np.asarray(image.convert("RGB")).astype(int)
    assert pixels.shape[0] >= height
    assert 1000 <= pixels.shape[1] <= 4000
    assert len(np.unique(pixels.reshape(-1, 3), axis=0)) > 100
    for edge in (pixels[:5], pixels[-5:], pixels[:, :5], pixels[:, -5:]):
        assert (edge == 255).all()
    return pixels


# --- the command, from end to end


def test_a_text_is_explained(capsys: Any, tmp_path: Path, classifier: Path) -> None:
    out = tmp_path / "new" / "text.png"
    record = answer(capsys, "explain", classifier, TEXT, "--out", out)
    pixels = assert_picture(out, 400)
    assert record["tokens"][0] == "[CLS]"
    assert record["tokens"][-1] == "[SEP]"
    assert "".join(record["tokens"][1:-1]).replace("##", "") == TEXT.replace(" ", "")
    attributions = record["token_attributions"]
    assert len(attributions) == len(record["tokens"])
    assert attributions[0] == attributions[-1] == 0.0
    assert sum(attributions) == pytest.approx(record["total"], rel=1e-6)
    assert record["output"] - record["baseline_output"] == pytest.approx(record["total"], rel=0.01)
    assert record["complete"] is True
    assert record["gap"] < 0.01

    # The token that matters most is on the last colour of the scale, red or blue.
    strongest = (103, 0, 31) if max(attributions, key=abs) > 0 else (5, 48, 97)
    assert (pixels == strongest).all(axis=2).sum() > 300


def test_the_class_can_be_chosen(classifier: Path) -> None:
    model = zoo.load(classifier)
    inputs = model.tokenizer.prepare([TEXT], max_length=32)
    logits = np.asarray(model(inputs)["logits"])[0]
    best = int(np.argmax(logits))
    powers = np.exp(logits) / np.exp(logits).sum()
    asked = {None: best, "good": 0, "bad": 1, "0": 0, "1": 2, "2": 2}  # "1" is the label of class 2
    for target, number in asked.items():
        found = explain(model, Question(text=TEXT, target=target))
        assert found.target is not None
        assert found.target.what == f"class {model.labels[number]!r}"
        assert found.target.probability == pytest.approx(float(powers[number]), abs=1e-5)
        check(found, model, logits[number], (0,))


def test_an_image_is_explained(capsys: Any, tmp_path: Path, vision: Path, picture: Path) -> None:
    out = tmp_path / "image.png"
    record = answer(capsys, "explain", vision, picture, "--out", out)
    pixels = assert_picture(out, 300)
    assert (pixels == (250, 120, 10)).all(axis=2).sum() > 1000  # the image is shown in its colours
    patches, rollout = np.array(record["patch_attributions"]), np.array(record["patch_rollout"])
    assert patches.shape == rollout.shape == (2, 3)
    assert not patches[:, 0].any()  # black, as the baseline is
    assert patches.any()
    assert patches.sum() == pytest.approx(record["total"], rel=1e-6)
    assert 0 < rollout.sum() < 1  # the rest comes from the class token
    assert record["complete"] is True


def test_image_and_text_share_a_similarity(capsys: Any, tmp_path: Path, clip: Path, picture: Path) -> None:
    out = tmp_path / "pair.png"
    record = answer(capsys, "explain", clip, picture, "--text", "a $5 photo of the naïve", "--out", out)
    assert_picture(out, 700)
    total = np.sum(record["patch_attributions"]) + np.sum(record["token_attributions"])
    assert total == pytest.approx(record["difference"], rel=0.01)

    from zoo.prediction import embed

    model = zoo.load(clip)
    expected = embed(model, [picture], True)[0] @ embed(model, ["a $5 photo of the naïve"], False)[0]
    assert record["output"] == pytest.approx(float(expected), abs=1e-5)


def test_the_numbers_are_said_in_words_too(capsys: Any, tmp_path: Path, vision: Path, picture: Path) -> None:
    assert run(["explain", str(vision), str(picture), "--out", str(tmp_path / "a.png")]) == 0
    title, numbers, path = capsys.readouterr().out.splitlines()
    assert title.startswith("vit classify: class 'LABEL_")
    assert "attributions add up to" in numbers
    assert path == str(tmp_path / "a.png")


def test_mistakes_are_told_of_and_write_nothing(
    capsys: Any, tmp_path: Path, classifier: Path, vision: Path, clip: Path, picture: Path
) -> None:
    out = tmp_path / "out.png"

    def told(source: Path, given: object, *options: object, to: Path = out) -> str:
        return refuse(capsys, "explain", source, given, "--out", to, *options)

    assert "must end in .png" in told(classifier, TEXT, to=tmp_path / "out.jpg")
    assert "there is no such directory" in told(tmp_path / "nowhere", TEXT)
    assert "there is no such file" in told(vision, tmp_path / "nowhere.jpg")
    assert "--target says nothing" in told(clip, picture, "--text", "a cat", "--target", "cat")
    assert "--text says nothing" in told(classifier, TEXT, "--text", "another")
    assert "--context says nothing" in told(vision, picture, "--context", "another")
    assert "give that as --text" in told(clip, picture)
    assert "--layer is 2, and the model has blocks 0 to 1" in told(classifier, TEXT, "--layer", 2)
    assert "--layer" in told(vision, picture, "--layer", 0)
    assert "no task 'clasify'" in told(classifier, TEXT, "--task", "clasify")
    assert "give it as --context" in told(classifier, TEXT, "--task", "answer")
    assert "'good'" in told(classifier, TEXT, "--target", "goood")
    assert "below 3" in told(vision, picture, "--target", 3)
    assert "no words" in told(classifier, "")
    assert "--out" in refuse(capsys, "explain", classifier, TEXT)
    assert not out.exists()
    out.write_text("mine")
    assert "--force" in told(classifier, TEXT)
    assert out.read_text() == "mine"
    assert list(tmp_path.iterdir()) == [out]


# --- what is explained, by task


def check(found: Any, model: Any, score: float, places: tuple[int, ...]) -> None:
    assert found.attribution.complete
    assert found.attribution.output == pytest.approx(score, abs=1e-5)
    assert found.target.places == found.text.places == places
    assert found.text.attributions.shape == (len(found.text.tokens),)
    assert len(found.text.attention) == model.config.depth
    np.testing.assert_allclose(found.text.rollout.sum(axis=1), 1.0, atol=1e-6)


def run_model(model: Any, text: str, pair: str | None = None) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """The ids of a text and what the model makes of it, with no help from the code under test."""
    inputs = model.tokenizer.prepare([text], None if pair is None else [pair], max_length=model.config.max_length)
    return inputs["token_ids"][0], {name: np.asarray(value)[0] for name, value in model(inputs).items()}


@pytest.mark.parametrize("task", ["masked_lm", "pretrain"])
def test_a_masked_token(bert: Any, task: str) -> None:
    model = bert(task)
    text = "the [MASK] sat on the [MASK]"
    ids, outputs = run_model(model, text)
    place = list(ids).index(model.tokenizer.special_ids["mask"])
    known = outputs["logits"][:, : model.tokenizer.vocabulary_size]
    found = explain(model, Question(text=text))
    check(found, model, known[place].max(), (place,))
    assert repr(model.tokenizer.decode([int(known[place].argmax())])) in found.target.what

    the = model.tokenizer.encode("the")[0]
    check(explain(model, Question(text=text, target="the", token=1)), model, known[1, the], (1,))
    for question, told in (
        (Question(text="the cat"), r"write \[MASK\]"),
        (Question(text=text, target="the cat"), "must be one"),
        (Question(text=text, token=len(ids)), f"tokens 0 to {len(ids) - 1}"),
        (Question(text=text, token=-1), "--token is -1"),
    ):
        with pytest.raises(UserError, match=told):
            explain(model, question)


def test_the_surest_tag_that_says_something(bert: Any) -> None:
    model = bert("tag")
    # Lively weights are of one mind: without what all tokens have in common they are not.
    model.classifier.bias.assign_sub(run_model(model, TEXT)[1]["logits"].mean(axis=0))
    ids, outputs = run_model(model, TEXT)
    logits = outputs["logits"]
    sure = np.exp(logits).max(axis=1) / np.exp(logits).sum(axis=1)
    words = np.arange(1, len(ids) - 1)
    best = int(words[sure[words].argmax()])
    check(explain(model, Question(text=TEXT)), model, logits[best].max(), (best,))

    nothing = logits[best].argmax()
    model.labels = tuple("O" if number == nothing else f"B-{number}" for number in range(3))
    others = [i for i in words if logits[i].argmax() != nothing]
    assert others
    place = max(others, key=lambda i: sure[i])
    found = explain(model, Question(text=TEXT))
    check(found, model, logits[place].max(), (place,))
    assert f"'B-{logits[place].argmax()}'" in found.target.what
    check(explain(model, Question(text=TEXT, token=0, target="O")), model, logits[0, nothing], (0,))


def test_an_answer(bert: Any) -> None:
    model = bert("answer")
    question, context = "who sat on the mat ?", "the cat sat on the mat"
    ids, outputs = run_model(model, question, context)
    start = list(ids).index(model.tokenizer.special_ids["sep"]) + 1
    first, last = (outputs[name][start:-1].argmax() for name in ("start_logits", "end_logits"))
    if first < last:  # turn it round: an answer never ends before it begins
        for weight in (model.span.kernel, model.span.bias):
            weight.assign(weight.numpy()[..., ::-1])
        outputs = {"start_logits": outputs["end_logits"], "end_logits": outputs["start_logits"]}
    assert first != last
    spans = {
        (i, j): outputs["start_logits"][i] + outputs["end_logits"][j]
        for i in range(start, len(ids) - 1)
        for j in range(i, len(ids) - 1)
    }
    best = max(spans, key=lambda span: spans[span])
    found = explain(model, Question(text=question, context=context))
    check(found, model, spans[best], best)
    assert repr(model.tokenizer.decode(ids[best[0] : best[1] + 1])) in found.target.what


def test_an_embedding(bert: Any) -> None:
    model = bert("embed")
    (_, one), (_, other) = run_model(model, TEXT), run_model(model, SENTENCES[1])
    check(explain(model, Question(text=TEXT)), model, 1.0, ())
    lengths = np.linalg.norm(one["embedding"]) * np.linalg.norm(other["embedding"])
    found = explain(model, Question(text=TEXT, other=SENTENCES[1]))
    check(found, model, one["embedding"] @ other["embedding"] / lengths, ())


def test_the_next_token(gpt: Any) -> None:
    ids, outputs = run_model(gpt, TEXT)
    known = outputs["logits"][-1, : gpt.tokenizer.vocabulary_size]
    check(explain(gpt, Question(text=TEXT)), gpt, known.max(), (len(ids) - 1,))
    chosen = gpt.tokenizer.encode(" the")[0]
    found = explain(gpt, Question(text=TEXT, target=" the"))
    check(found, gpt, known[chosen], (len(ids) - 1,))
    assert not np.triu(found.text.rollout, 1).any()


def test_a_backbone_has_attention_only(bert: Any, tmp_path: Path) -> None:
    found = explain(bert("backbone"), Question(text=TEXT))
    assert found.target is None
    assert found.attribution is None
    assert found.text is not None
    assert found.text.attributions is None
    draw(found, tmp_path / "backbone.png")
    assert_picture(tmp_path / "backbone.png", 300)


def test_patches_that_do_not_fill_the_image(enliven: Any, tmp_path: Path, picture: Path) -> None:
    model = enliven(zoo.create("vit-nano", task="embed", image_size=(19, 10), patch_size=4))
    model.preprocessing = Preprocessing.for_vit(19, 10)
    found = explain(model, Question(image=str(picture)))
    assert np.array(found.to_record()["patch_attributions"]).shape == (4, 2)
    assert found.image is not None
    assert not found.image.attributions[16:].any()
    assert not found.image.attributions[:, 8:].any()
    draw(found, tmp_path / "odd.png")
    assert_picture(tmp_path / "odd.png", 300)


def test_long_texts(bert: Any, monkeypatch: Any, caplog: Any) -> None:
    model = bert("classify")
    assert len(model.tokenizer.encode("on")) == 1
    found = explain(model, Question(text=" ".join(["on"] * 31)))
    assert len(found.text.tokens) == 32
    assert "the rest is cut off" in caplog.text
    caplog.clear()
    explain(model, Question(text=" ".join(["on"] * 30)))
    assert not caplog.records
    monkeypatch.setattr(explaining, "LONGEST_TEXT", 31)
    with pytest.raises(UserError, match="31 can be shown"):
        explain(model, Question(text=" ".join([TEXT] * 20)))


def test_what_does_not_add_up_is_drawn_in_red(bert: Any, tmp_path: Path) -> None:
    found = explain(bert("classify"), Question(text=TEXT))
    draw(found, tmp_path / "a.png")
    draw(
        dataclasses.replace(found, attribution=dataclasses.replace(found.attribution, complete=False)),
        tmp_path / "b.png",
    )
    red = [(assert_picture(tmp_path / name, 300) == (255, 0, 0)).all(axis=2).sum() for name in ("a.png", "b.png")]
    assert red[0] == 0
    assert red[1] > 100


# --- letters


def test_whatever_a_text_holds_is_drawn(gpt: Any, tmp_path: Path) -> None:
    """Formulas, control characters, line breaks, scripts without a font, parts of characters: no warning, no error."""
    text = "$x^2$ \x00\t日本🙂\n\\frac{1} \u202e é</b> <|endoftext|> %s"
    found = dataclasses.replace(explain(gpt, Question(text=text)), model=r"$\frac{1$")
    draw(found, tmp_path / "a.png", layer=0)
    assert_picture(tmp_path / "a.png", 500)
    assert "".join(found.text.tokens).count("\\x") >= 7  # the bytes of characters that are more than one token


def test_tokens_are_named(gpt: Any) -> None:
    clip = Tokenizer.load(GOLDEN / "clip")
    assert [name_token(gpt.tokenizer, number) for number in gpt.tokenizer.encode("é t")] == ["\\xc3", "\\xa9", " ", "t"]
    assert [name_token(clip, number) for number in clip.encode("é t")] == ["\\xc3", "\\xa9", "t"]


def test_letters_the_font_has_stay_and_others_become_boxes() -> None:
    assert letter("café →") == "café →"
    assert letter("a\U000f0000b") == f"a{UNKNOWN}b"
    assert letter("a\x00\u200f") == "a<0><200F>"
    assert letter_token(" the\n") == "␣the↵"
    assert letter_token("x" * 40) == "x" * 23 + "…"
    assert [measure(text) for text in ("abc", "日本", "e\u0301", UNKNOWN)] == [3, 4, 1, 1]
    assert wrap("one two three", 8) == ["one two", "three"]
    assert wrap("abcdefghij k", 4) == ["abcd", "efgh", "ij k"]
    assert wrap("", 4) == []
