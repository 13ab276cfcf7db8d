"""`zoo export` as it is called: what of the user's data, and of the options, reaches the exporter. What the exporter
makes of it is tested in `tests/export`; here it only notes what it was given."""

import csv
import dataclasses
import json
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import zoo
from export.artefacts import Plan
from export.metrics import judge
from export.real import Examples
from export.reference import make_real_cases
from export.report import ArtefactReport, Report
from export.signatures import portable_signatures
from recipes.command import run
from tests.recipes.fine_tuned import figures, refuse
from zoo.directory import find_model_directory
from zoo.text import train_bpe, train_wordpiece

SENTENCE = "the a model layer token learns reads writes text slowly again what colour is it blue green red"
WORDS = SENTENCE.split()
SPLIT = "modelreads"  # a word of several pieces, of which "model" is the first
COLOURS = {"black": (0, 0, 0), "white": (255, 255, 255), "red": (255, 0, 0)}  # -1 and 1, as vit-nano sees them


def sentence(number: int) -> str:
    """Another one for each number, of words that are tokens; longer ones among shorter."""
    base = len(WORDS)
    words = [WORDS[number % base], WORDS[number // base % base], WORDS[number // base**2 % base]]
    return " ".join([*words, *["again"] * (number % 7)])


@dataclasses.dataclass(frozen=True)
class Given:
    """What the exporter was given."""

    model: Any
    out: Path
    plan: Plan
    texts: list[str]
    images: list[np.ndarray]
    examples: Examples | None
    force: bool
    progress: Callable[[str], None]

    def rows(self) -> Iterator[dict[str, Any]]:
        """The examples one by one, inputs and what is right side by side, with the tokens that are no padding."""
        assert self.examples is not None
        for inputs, right in self.examples.batches:
            together = {**inputs, **{f"right {name}": value for name, value in right.items()}}
            for place in range(len(next(iter(inputs.values())))):
                row = {name: value[place] for name, value in together.items()}
                if "padding_mask" in row:
                    assert sorted(row["padding_mask"], reverse=True) == row["padding_mask"].tolist()
                    row["ids"] = row["token_ids"][: row["padding_mask"].sum()].tolist()
                yield row

    def spell(self, ids: Any) -> str:
        return self.model.tokenizer.decode(ids)

    def assert_fit(self) -> None:
        """The examples are what every file takes, and what is right is of the shape of its outputs."""
        assert self.examples is not None
        for function in portable_signatures(self.model):
            own = self.examples.of([spec.name for spec in function.inputs])
            assert own.rows == self.examples.rows > 0
            for case in make_real_cases(function, own.batches[-1:], own.metric):
                case.check()
                assert {*case.targets} <= {*case.outputs}


def report(*failures: str) -> Report:
    artefact = ArtefactReport("onnx", "model.onnx", "float32", 1234, [*failures])
    return Report("bert", "bert", "classify", 1e-4, {}, {}, 2, [artefact], [])


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory, enliven: Callable[..., Any]) -> Iterator[Path]:
    """A folder of nano models, one a task; to load one is to have that which was saved, since most of the time of a
    command on a tiny model goes to loading it."""
    folder = tmp_path_factory.mktemp("models")
    texts = [SENTENCE] * 20
    wordpiece, bpe = train_wordpiece(texts, 160), train_bpe(texts, 300)
    known = {"classify": ("good", "bad"), "tag": ("O", "B-THING", "I-THING", "B-WHO", "I-WHO")}
    made = {}

    def save(
        name: str, preset: str, tokenizer: Any = None, labels: tuple[str, ...] | None = None, **sizes: Any
    ) -> None:
        model = zoo.create(preset, **sizes, **({"num_classes": len(labels)} if labels else {}))
        model.tokenizer, model.labels = tokenizer, labels
        made[folder / name] = model if preset == "vit-nano" else enliven(model)
        zoo.save(model, folder / name)

    for task in ("classify", "tag", "answer", "embed", "masked_lm"):
        size = wordpiece.vocabulary_size
        save(task, "bert-nano", wordpiece, known.get(task), task=task, vocabulary_size=size)
    for task in ("generate", "classify"):
        save(f"gpt_{task}", "gpt-nano", bpe, known.get(task), task=task, vocabulary_size=bpe.vocabulary_size)
    save("vit", "vit-nano", labels=tuple(COLOURS))
    save("vit_embed", "vit-nano", task="embed")
    text = {"vocabulary_size": wordpiece.vocabulary_size}
    save("clip", "clip-nano", wordpiece, text=text, end_token=wordpiece.special_ids["sep"])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(zoo, "load", lambda source: made[find_model_directory(source).resolve()])
        yield folder


@pytest.fixture
def exports(monkeypatch: pytest.MonkeyPatch) -> list[Given]:
    """What the exporter was given, each time that it was called; it writes nothing."""
    calls: list[Given] = []

    def note(model: Any, out: Path, **given: Any) -> Report:
        calls.append(Given(model, out, **given))
        return report()

    monkeypatch.setattr("export.bundle.export_bundle", note)
    return calls


@pytest.fixture
def export(exports: list[Given], models: Path, tmp_path: Path) -> Callable[..., Given]:
    """Call `zoo export` with a model and options; what reached the exporter."""

    def export(source: str | Path, *options: object) -> Given:
        assert run(["export", str(models / source), "--out", str(tmp_path / "bundle"), *map(str, options)]) == 0
        return exports.pop()

    return export


def write_csv(path: Path, *rows: tuple[object, ...]) -> Path:
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows(rows)
    return path


def write_json(path: Path, *rows: dict[str, Any]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def write_pictures(folder: Path) -> Path:
    """Two of each colour, as colour/number.png."""
    for colour, pixel in COLOURS.items():
        (folder / colour).mkdir(parents=True)
        for number in range(2):
            Image.new("RGB", (20 + number, 10), pixel).save(folder / colour / f"{number}.png")
    return folder


# -- texts


@pytest.mark.parametrize("source", ["classify", "gpt_classify"])
def test_texts_with_labels(export: Callable[..., Given], tmp_path: Path, source: str) -> None:
    labels = {sentence(number): ("bad", "good")[number % 3 == 0] for number in range(45)}
    given = export(source, "--data", write_csv(tmp_path / "rows.csv", ("text", "label"), *labels.items()))
    assert given.texts == [*labels] and not len(given.images)
    assert given.examples is not None and given.examples.metric == "accuracy"
    found = {}
    for row in given.rows():
        words = given.spell(row["ids"]).removeprefix("[CLS] ").removesuffix(" [SEP]")
        found[words] = given.model.labels[row["right logits"]]
    assert found == labels and given.examples.rows == 45
    given.assert_fit()


def test_of_many_rows_some_are_taken_from_everywhere(
    export: Callable[..., Given], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The table is sorted by label."""
    monkeypatch.setattr("recipes.export_data.ROWS", 64)
    rows = [(sentence(number), "good" if number < 150 else "bad") for number in range(300)]
    given = export("classify", "--data", write_csv(tmp_path / "rows.csv", ("text", "label"), *rows))
    assert given.examples is not None and given.examples.rows == 64
    counts = Counter(int(row["right logits"]) for row in given.rows())
    assert min(counts[0], counts[1]) >= 16
    places = [[text for text, _ in rows].index(text) for text in given.texts]
    assert len(places) == 64 and 3 <= min(np.diff(places)) <= max(np.diff(places)) <= 5 and places[-1] > 290


def test_words_with_tags(export: Callable[..., Given], tmp_path: Path) -> None:
    """Of a word of several pieces the first alone is judged by."""
    rows = [
        {"tokens": ["the", SPLIT, "layer", "reads"], "tags": ["O", "B-THING", "I-THING", "O"]},
        {"tokens": ["blue", "writes"], "tags": ["B-WHO", "O"]},
    ]
    given = export("tag", "--data", write_json(tmp_path / "rows.jsonl", *rows))
    assert given.texts == [f"the {SPLIT} layer reads", "blue writes"]
    assert given.examples is not None and given.examples.metric == "accuracy"
    found = []
    for row in given.rows():
        judged = row["right logits"] >= 0
        assert not judged[row["padding_mask"] == 0].any()
        labels = [given.model.labels[number] for number in row["right logits"][judged]]
        found.append([*zip(map(given.spell, row["token_ids"][judged, None]), labels, strict=True)])
    assert found == [
        [("blue", "B-WHO"), ("writes", "O")],
        [("the", "O"), ("model", "B-THING"), ("layer", "I-THING"), ("reads", "O")],
    ]
    given.assert_fit()


@pytest.mark.parametrize("names", [("question", "context", "answers"), ("asked", "passage of it", "said")])
def test_questions_with_answers(export: Callable[..., Given], tmp_path: Path, names: tuple[str, ...]) -> None:
    context = "it is blue again it is green"
    asked = {"what colour": "blue", "what is green": "it", "what colour again": "green", "what is red": None}
    rows = []
    for question, answer in asked.items():
        texts = [answer] if answer else []
        starts = [context.rindex(text) for text in texts]
        answers = {"text": texts, "answer_start": starts}  # as SQuAD is had from the hub
        rows.append(dict(zip(names, (question, context, answers), strict=True)))
    rows.append({**rows[0], names[0]: "what is slowly", names[1]: f"slowly {context}"})
    rows[-1][names[2]] = {"text": ["slowly"], "answer_start": [0]}
    columns = ("--question-column", names[0], "--context-column", names[1], "--answers-column", names[2])
    options = columns if names[0] == "asked" else ()
    given = export("answer", "--data", write_json(tmp_path / "rows.jsonl", *rows), *options)

    assert given.texts == [*asked, "what is slowly", context, f"slowly {context}"]
    found = {}
    for row in given.rows():
        first, last = int(row["right start_logits"]), int(row["right end_logits"])
        question = row["token_ids"][1 : row["ids"].index(given.model.tokenizer.special_ids["sep"])]
        assert first == last
        assert (row["segment_ids"][first] == 1) == (first > 0)  # in the context; or nowhere
        found[given.spell(question)] = given.spell(row["token_ids"][[first]])
        if given.spell(question) == "what is green":  # which stands there twice
            assert row["ids"].index(row["ids"][first]) < first  # the later of the two
    assert found == {**asked, "what is red": "[CLS]", "what is slowly": "slowly"}
    given.assert_fit()


def test_pairs_of_texts(export: Callable[..., Given], tmp_path: Path) -> None:
    """Of which nothing is said that one vector could be judged by: they are read one by one."""
    rows = [(sentence(number), sentence(100 + number)) for number in range(40)]
    table = write_csv(tmp_path / "rows.csv", ("text1", "text2"), *rows)
    given = export("embed", "--data", table)
    chosen = [rows[number * 40 // 32] for number in range(32)]
    assert given.texts == [*(first for first, _ in chosen), *(second for _, second in chosen)]
    assert given.examples is None
    given = export("embed", "--data", table, "--text-column", "text2")
    assert given.texts == [second for _, second in rows]


@pytest.mark.parametrize("source", ["generate", "masked_lm", "embed"])
@pytest.mark.parametrize("in_folder", [False, True], ids=["file", "folder"])
def test_running_text(export: Callable[..., Given], tmp_path: Path, source: str, in_folder: bool) -> None:
    text = "".join(f"{sentence(number)}.\n" for number in range(2000))
    path = tmp_path / "text" / "a.txt"
    path.parent.mkdir()
    path.write_text(text)
    given = export({"generate": "gpt_generate"}.get(source, source), "--data", path.parent if in_folder else path)
    (found,) = given.texts
    assert text.startswith(found) and len(found) == 20_000
    assert given.examples is None and not len(given.images)


def test_a_table_of_text(export: Callable[..., Given], tmp_path: Path) -> None:
    table = write_csv(tmp_path / "rows.csv", ("text", "words"), ("the model", "a layer"), ("it reads", "it writes"))
    assert export("gpt_generate", "--data", table).texts == ["the model\nit reads\n"]
    assert export("gpt_generate", "--data", table, "--text-column", "words").texts == ["a layer\nit writes\n"]
    assert export("masked_lm", "--data", table).texts == ["the model\nit reads\n"]


@pytest.mark.parametrize(
    ("names", "options"),
    [
        (("prompt", "completion"), ()),
        (("instruction", "output", "input"), ()),
        (
            ("asked", "said", "about"),
            ("--prompt-column", "asked", "--completion-column", "said", "--input-column", "about"),
        ),
    ],
    ids=lambda value: value[0] if value else "",
)
def test_prompts_with_completions(
    export: Callable[..., Given], tmp_path: Path, names: tuple[str, ...], options: tuple[str, ...]
) -> None:
    """What is right is what comes next, of the separator and the completion alone."""
    rows = [(sentence(number), f" {sentence(50 + 2 * number)}", f"it is {number}") for number in range(11)]
    table = write_csv(tmp_path / "rows.csv", names, *(row[: len(names)] for row in rows))
    given = export("gpt_generate", "--data", table, *options)
    prompts = [f"{prompt}\n{about}" if len(names) == 3 else prompt for prompt, _, about in rows]
    completions = [completion for _, completion, _ in rows]
    assert given.texts == [f"{prompt}\n{said}" for prompt, said in zip(prompts, completions, strict=True)]
    assert given.examples is not None and given.examples.metric == "perplexity"
    end = given.model.tokenizer.end_of_text
    found = {}
    for row in given.rows():
        right, ids = row["right logits"], row["ids"]
        first = int(np.argmax(right >= 0))
        assert (right[:first] == -1).all() and (right[len(ids) :] == -1).all()
        said = right[first : len(ids)].tolist()
        assert said == [*ids[first + 1 :], end]
        found[given.spell(ids[: first + 1])] = given.spell(said[:-1])
    assert found == {prompt: f"\n{said}" for prompt, said in zip(prompts, completions, strict=True)}
    given.assert_fit()


def test_an_export_is_judged_by_what_zoo_eval_measures(
    export: Callable[..., Given], models: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    prompts = write_csv(
        tmp_path / "prompts.csv", ("prompt", "completion"), *((sentence(n), sentence(3 * n)) for n in range(9))
    )
    rows = write_csv(
        tmp_path / "rows.csv", ("text", "label"), *((sentence(n), ("good", "bad")[n % 2]) for n in range(40))
    )
    for source, data, name, more in (
        ("gpt_generate", prompts, "perplexity", ("--completions", 0)),
        ("classify", rows, "accuracy", ()),
    ):
        given = export(source, "--data", data)
        assert given.examples is not None
        (function,) = portable_signatures(given.model)
        cases = list(make_real_cases(function, given.examples.batches, given.examples.metric))
        found = {metric.name: metric.model for metric in judge(cases, {case.name: case.outputs for case in cases})}
        assert found[name] == pytest.approx(figures(capsys, models / source, "--data", data, *more)[name], rel=1e-4)


# -- images


def test_images_with_labels(export: Callable[..., Given], tmp_path: Path) -> None:
    given = export("vit", "--data", write_pictures(tmp_path / "pictures"))
    assert given.texts == () and given.examples is not None and given.examples.metric == "accuracy"
    assert 2 <= len(given.images) <= 6 and len({tuple(image[0, 0]) for image in given.images}) == 3
    for image in given.images:
        assert image.dtype == np.uint8 and image.shape in ((10, 20, 3), (10, 21, 3))
        assert tuple(image[0, 0]) in COLOURS.values() and (image == image[0, 0]).all()
    found = Counter()
    for row in given.rows():
        colour = COLOURS[given.model.labels[row["right logits"]]]
        np.testing.assert_allclose(row["images"], np.broadcast_to(np.array(colour) / 127.5 - 1, (32, 32, 3)), atol=1e-6)
        found[colour] += 1
    assert found == dict.fromkeys(COLOURS.values(), 2)
    given.assert_fit()


def test_images_of_a_model_without_classes(
    export: Callable[..., Given], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = write_pictures(tmp_path / "pictures")
    given = export("vit_embed", "--data", folder)
    assert given.examples is None and given.texts == ()
    assert Counter(tuple(image[0, 0]) for image in given.images) == dict.fromkeys(COLOURS.values(), 2)
    monkeypatch.setattr("recipes.export_data.IMAGES", 3)
    assert {tuple(image[0, 0]) for image in export("vit_embed", "--data", folder).images} == {*COLOURS.values()}


def test_images_with_captions(export: Callable[..., Given], tmp_path: Path, models: Path) -> None:
    """Each beside its own; of columns that could be meant, that which the model was trained on."""
    write_pictures(tmp_path / "pictures")
    rows = [
        (f"pictures/{colour}/{number}.png", f"it is {colour}", f"{colour} again")
        for colour in COLOURS
        for number in (0, 1)
    ]
    table = write_csv(tmp_path / "rows.csv", ("image", "caption", "title"), *rows)
    run_directory = tmp_path / "run"
    run_directory.mkdir()
    (run_directory / "model").symlink_to(models / "clip")
    (run_directory / "recipe.json").write_text(json.dumps({"settings": {"columns": {"caption_column": ["title"]}}}))
    own = ("--caption-column", "caption")
    for source, options, place in (("clip", (), 1), (run_directory, (), 2), (run_directory, own, 1)):
        given = export(source, "--data", table, *options)
        assert given.texts == [row[place] for row in rows] and given.examples is None
        assert [tuple(image[0, 0]) for image in given.images] == [pixel for pixel in COLOURS.values() for _ in "01"]


# -- no data, and the options


def test_without_data(export: Callable[..., Given], monkeypatch: pytest.MonkeyPatch) -> None:
    given = export("classify")
    (text,) = given.texts
    assert len(text) == 20_000 and text.count(" the ") > 50 and not len(given.images)
    given = export("vit")
    assert not len(given.texts)
    assert len(given.images) == 64 and {image.shape for image in given.images} == {(160, 160, 3)}
    assert len({image.tobytes() for image in given.images}) == 64
    monkeypatch.setattr("recipes.export_data.IMAGES", 2)
    given = export("clip")
    assert given.texts == [text] and len(given.images) == 2
    assert given.examples is None


def test_options(export: Callable[..., Given], tmp_path: Path) -> None:
    given = export("classify")
    assert given.plan == Plan(("saved_model", "tflite", "onnx"), ("float32",), None)
    assert given.out == tmp_path / "bundle" and given.force is False
    given = export("classify", "--formats", "tflite, onnx", "--quantize", "none,fp16,int8,none,int4", "--tokens", 16)
    assert given.plan == Plan(("tflite", "onnx"), ("float32", "float16", "int8", "int4"), 16)
    given = export("vit", "--formats", "tflite", "--quantize", "int8_full", "--force")
    assert given.plan == Plan(("tflite",), ("int8_full",), None) and given.force is True


def test_what_is_printed(
    models: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["export", str(models / "classify"), "--out", str(tmp_path / "bundle"), "--force"]
    monkeypatch.setattr("export.bundle.export_bundle", lambda *_, **__: report())
    assert run([*command, "--json"]) == 0
    printed = json.loads(capsys.readouterr().out)
    assert printed["passed"] is True and printed["artefacts"][0]["bytes"] == 1234
    monkeypatch.setattr("export.bundle.export_bundle", lambda *_, **__: report("is another"))
    assert run(command) == 1
    assert "onnx: is another" in capsys.readouterr().out


# -- mistakes


def test_mistakes_are_told_in_a_line(
    exports: list[Given], models: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    taken = tmp_path / "taken"
    taken.mkdir()
    (taken / "thesis.txt").write_text("years of work")
    text = tmp_path / "text.txt"
    text.write_text("the model reads\n")
    no_rows = write_csv(tmp_path / "none.csv", ("text", "label"))
    labelled = write_csv(tmp_path / "ok.csv", ("text", "label"), ("it reads", "good"), ("it writes", "odd"))
    untold = write_csv(tmp_path / "untold.csv", ("one", "two", "label"), ("it", "is", "good"))
    one = write_csv(tmp_path / "one.csv", ("text1", "text2"), ("it", "is"))
    pictures = write_pictures(tmp_path / "pictures")
    (pictures / "red").rename(pictures / "blue")
    broken = write_json(tmp_path / "rows.jsonl", {"question": "what", "context": "it is", "answers": "it"})

    cases: list[tuple[str, tuple[object, ...], tuple[str, ...]]] = [
        ("classify", ("--quantize", "none,int9"), ("'int9'", "none, fp16, int8, int8_full, int4")),
        ("classify", ("--formats", "onnx,tflight"), ("'tflight'", "saved_model, tflite, onnx, huggingface")),
        ("classify", ("--formats", ","), ("no format",)),
        ("classify", ("--quantize", ""), ("no precision",)),
        ("classify", ("--tokens", 0), ("is 0, and must be 1 or more",)),
        ("classify", ("--formats", "saved_model", "--quantize", "int8"), ("a SavedModel is float32",)),
        ("classify", ("--out", taken), ("not empty",)),
        ("classify", ("--text-column", "text"), ("--text-column", "--data")),
        ("classify", ("--data", tmp_path / "nowhere.csv"), ("nowhere.csv does not exist",)),
        ("classify", ("--data", text), ("text.txt is no table",)),
        ("classify", ("--data", no_rows), ("none.csv holds no rows",)),
        ("classify", ("--data", labelled), ("ok.csv", "'odd'")),
        ("classify", ("--data", untold), ("untold.csv", "--text-column")),
        ("classify", ("--data", labelled, "--label-column", "lable"), ("'lable'", "'label'")),
        ("tag", ("--data", labelled), ("ok.csv",)),
        ("answer", ("--data", labelled), ("ok.csv", "question")),
        ("answer", ("--data", broken), ("rows.jsonl", "no list of answers")),
        ("embed", ("--data", one), ("1 row",)),
        ("gpt_generate", ("--data", untold, "--prompt-column", "one"), ("untold.csv", "--completion-column")),
        ("gpt_generate", ("--data", tmp_path / "nowhere"), ("nowhere does not exist",)),
        ("masked_lm", ("--data", untold), ("untold.csv", "--text-column")),
        ("vit", ("--data", labelled), ("ok.csv", "no such file")),
        ("vit", ("--data", pictures), ("'blue'",)),
        ("clip", ("--data", untold), ("untold.csv", "--image-column")),
        ("nowhere", (), ("no such directory",)),
    ]
    for source, options, words in cases:
        out = () if "--out" in options else ("--out", tmp_path / "bundle")
        refuse(capsys, ["export", *map(str, (models / source, *out, *options))], *words)
    assert exports == [] and not (tmp_path / "bundle").exists()
