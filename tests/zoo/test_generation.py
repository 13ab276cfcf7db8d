"""`zoo.generation`: the cache changes nothing, and tokens are drawn from the distribution that was asked for."""

import logging
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pytest
import tensorflow as tf

import zoo
from tests.zoo.reference import assert_close
from zoo.errors import UserError
from zoo.generation import GREEDY, Generator, Sampling, choose_token
from zoo.text import train_characters

PROMPT = [5, 17, 93, 2, 41]


@pytest.fixture(scope="module")
def generator(language_model) -> Generator:
    return Generator(language_model)


@pytest.fixture(scope="module")
def next_logits(language_model) -> Any:
    """Logits after a list of tokens, by the whole model without a cache."""

    @tf.function(input_signature=[tf.TensorSpec((1, None), tf.int32)])
    def run(token_ids: Any) -> Any:
        return language_model({"token_ids": token_ids}, training=False)["logits"][0, -1]

    return lambda ids: run(tf.constant([ids], tf.int32)).numpy()


def greedy_without_cache(next_logits: Any, prompt: Sequence[int], count: int) -> tuple[list[int], float]:
    """The continuation, and the smallest gap between the two best tokens on the way."""
    ids, gaps = list(prompt), []
    for _ in range(count):
        logits = next_logits(ids)
        second, first = np.sort(logits)[-2:]
        gaps.append(first - second)
        ids.append(int(np.argmax(logits)))
    return ids[len(prompt) :], min(gaps)


@pytest.fixture
def warnings_of_zoo() -> Iterator[list[str]]:
    """What the logger "zoo" says, whether or not it hands it on to others."""
    messages: list[str] = []
    handler = logging.Handler(logging.WARNING)
    handler.emit = lambda record: messages.append(record.getMessage())  # type: ignore[method-assign]
    logger = logging.getLogger("zoo")
    logger.addHandler(handler)
    yield messages
    logger.removeHandler(handler)


# --- the cache


def test_256_greedy_tokens_equal_the_uncached_loop(generator, next_logits) -> None:
    expected, gap = greedy_without_cache(next_logits, PROMPT, 256)
    assert gap > 1e-3  # far above rounding: equality is not luck
    assert len(set(expected)) > 20
    assert generator.generate([PROMPT], 256) == [expected]


def test_prompts_of_different_lengths_do_not_disturb_each_other(generator, next_logits) -> None:
    prompts = [PROMPT, [8], list(range(40, 60)), PROMPT[:2]]
    together = generator.generate(prompts, 40)
    for prompt, new in zip(prompts, together, strict=True):
        expected, gap = greedy_without_cache(next_logits, prompt, 40)
        assert gap > 1e-3, (prompt, gap)
        assert new == expected
        assert generator.generate([prompt], 40) == [expected]


def test_every_step_feeds_one_token_to_a_cache_of_fixed_length(generator, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[tuple[Any, ...]] = []
    step = generator._step

    def record(token_ids: Any, positions: Any, visible: Any, cache: Any, filled: Any, *rest: Any) -> Any:
        sizes = {tuple(value.shape) for layer in cache for value in layer.values()}
        calls.append((tuple(token_ids.shape), tuple(visible.shape), sizes, int(filled)))
        return step(token_ids, positions, visible, cache, filled, *rest)

    monkeypatch.setattr(generator, "_step", record)
    for count in (1, 2, 64):
        calls.clear()
        generator.generate([PROMPT, [1]], count)
        slots = len(PROMPT) + count - 1
        assert [call[0] for call in calls] == [(2, 5)] + [(2, 1)] * (count - 1)
        assert [call[3] for call in calls] == [0, *range(5, slots)]
        assert all(call[1] == (2, slots) and call[2] == {(2, 4, slots, 8)} for call in calls)


def test_later_calls_reuse_the_traced_graph(language_model) -> None:
    generator = Generator(language_model)
    shapes = [([PROMPT], 3), ([[1, 2, 3], [4]], 5), ([[6] * 9], 2), ([[7] * 4] * 3, 7)]
    for prompts, count in shapes[:3]:
        generator.generate(prompts, count)
    traced = generator._step.experimental_get_tracing_count()
    assert traced <= 4
    for prompts, count in shapes:
        for sampling in (GREEDY, Sampling(0.7, 5, 0.9, seed=2**40)):
            generator.generate(prompts, count, sampling)
    generator.generate([[2] * 30] * 4, 11)
    assert generator._step.experimental_get_tracing_count() == traced


# --- the end


def test_a_stop_token_ends_its_own_sequence(generator, next_logits) -> None:
    prompts = [PROMPT, [8], [60, 61]]
    whole = generator.generate(prompts, 30)
    stop = whole[0][7]
    expected = [new[: new.index(stop)] if stop in new else new for new in whole]
    assert len(expected[0]) <= 7 < max(map(len, expected))
    seen: list[list[int | None]] = []
    assert generator.generate(prompts, 30, stop_tokens=[stop], on_token=seen.append) == expected
    for i, new in enumerate(expected):
        column = [tokens[i] for tokens in seen]
        assert [token for token in column if token is not None] == new
        assert column[len(new) :] == [None] * (len(column) - len(new))
    alone = generator.generate([PROMPT], 30, stop_tokens=[96, stop])
    assert alone == expected[:1]


def test_generation_stops_when_all_have_ended(generator) -> None:
    first = generator.generate([PROMPT], 1)[0][0]
    seen: list[list[int | None]] = []
    assert generator.generate([PROMPT], 50, stop_tokens=[first], on_token=seen.append) == [[]]
    assert seen == [[None]]
    assert generator.generate([], 5) == []
    assert generator.generate([PROMPT], 0) == [[]]


# --- the context


@pytest.fixture(scope="module")
def short(enliven) -> Any:
    """A model with a context of 8 tokens."""
    return enliven(zoo.create("gpt-nano", vocabulary_size=97, max_length=8, depth=1), seed=1)


@pytest.fixture(scope="module")
def short_generator(short) -> Generator:
    return Generator(short)


def test_past_the_context_its_last_half_is_read_anew(short, short_generator, warnings_of_zoo) -> None:
    history, expected = [3, 4, 5], []
    start = 0  # of the window that is read
    while len(expected) < 30:
        if len(history) - start > 8:
            start = len(history) - 4
        window = np.array([history[start:]], "int32")
        expected.append(int(np.argmax(short({"token_ids": window})["logits"][0, -1])))
        history.append(expected[-1])
    assert len(set(expected)) > 4
    assert short_generator.generate([[3, 4, 5]], 30) == [expected]
    assert warnings_of_zoo == []


@pytest.mark.parametrize("length", [8, 9, 20])
def test_a_prompt_longer_than_the_context_is_cut_from_the_left(
    short, short_generator, warnings_of_zoo, length: int
) -> None:
    prompt = list(range(length))
    new = short_generator.generate([prompt], 6)
    if length == 8:
        assert warnings_of_zoo == []
    else:
        (message,) = warnings_of_zoo
        assert f"the prompt has {length} tokens" in message and f"the first {length - 8} are left out" in message
    assert new == short_generator.generate([prompt[-8:]], 6)
    assert new[0][0] == int(np.argmax(short({"token_ids": np.array([prompt[-8:]], "int32")})["logits"][0, -1]))


def test_a_context_of_one_token_still_generates(enliven) -> None:
    model = enliven(zoo.create("gpt-nano", vocabulary_size=30, max_length=1, depth=1))
    expected, token = [], 3
    for _ in range(6):
        token = int(np.argmax(model({"token_ids": np.array([[token]], "int32")})["logits"][0, 0]))
        expected.append(token)
    assert Generator(model).generate([[3]], 6) == [expected]


# --- what is refused


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"temperature": -0.1}, "temperature is -0.1, and must be 0 or more"),
        ({"temperature": float("nan")}, "temperature is nan"),
        ({"temperature": float("inf")}, "temperature is inf"),
        ({"top_k": -1}, "top_k is -1, and must be 0 (no limit) or more"),
        ({"top_k": 2**31}, "top_k is 2147483648"),
        ({"top_p": 0.0}, "top_p is 0.0, and must be above 0 and at most 1"),
        ({"top_p": 1.1}, "top_p is 1.1"),
        ({"top_p": float("nan")}, "top_p is nan"),
        ({"seed": 2**63}, "seed is 9223372036854775808, and must fit in 64 bits"),
    ],
)
def test_wrong_settings_are_refused(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError) as caught:
        Sampling(**arguments)
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("prompts", "message"),
    [
        ([[1], []], "an empty prompt cannot be continued"),
        ([[1], [3, 97]], "the prompt holds token 97, and the model has tokens 0 to 96"),
        ([[-1, 3]], "the prompt holds token -1"),
    ],
)
def test_wrong_prompts_are_refused(generator, prompts: list[list[int]], message: str) -> None:
    with pytest.raises(UserError) as caught:
        generator.generate(prompts, 3)
    assert message in str(caught.value)


def test_a_model_without_logits_generates_nothing(language_model) -> None:
    with pytest.raises(UserError, match="a gpt model for 'backbone' generates no text"):
        Generator(language_model.backbone)
    with pytest.raises(UserError, match="this model has no tokenizer"):
        Generator(language_model).generate_text("a", 3)


# --- sampling from a model


def test_a_seed_reproduces_and_another_differs(generator) -> None:
    prompts = [PROMPT, [8, 9]]
    first = generator.generate(prompts, 30, Sampling(seed=7))
    assert generator.generate(prompts, 30, Sampling(seed=7)) == first
    for seed in (8, -7, 7 + 2**32):
        other = generator.generate(prompts, 30, Sampling(seed=seed))
        assert all(ours != theirs for ours, theirs in zip(first, other, strict=True))
    twice = generator.generate([PROMPT, PROMPT], 30, Sampling(seed=7))
    assert twice[0] != twice[1]  # the rows of a batch draw for themselves


def test_every_step_draws_anew() -> None:
    model = zoo.create("gpt-nano", vocabulary_size=97, depth=1)
    model.backbone.token_embedding.table.assign(np.zeros((97, 32)))  # all tokens equally likely, always
    (drawn,) = Generator(model).generate([[1]], 60, Sampling(seed=1))
    assert len(set(drawn)) > 30


def test_top_k_of_one_and_a_tiny_nucleus_are_greedy(generator) -> None:
    greedy = generator.generate([PROMPT, [8, 9]], 30)
    for sampling in (Sampling(top_k=1), Sampling(1.5, 1, 0.5, 3), Sampling(top_p=1e-6), Sampling(temperature=1e-6)):
        assert generator.generate([PROMPT, [8, 9]], 30, sampling) == greedy
    assert generator.generate([PROMPT, [8, 9]], 30, Sampling(0.0, 5, 0.5, seed=99)) == greedy


def test_a_first_token_has_the_model_s_own_distribution(generator, next_logits) -> None:
    logits = next_logits(PROMPT).astype("float64")
    drawn = [token for seed in range(4) for (token,) in generator.generate([PROMPT] * 1000, 1, Sampling(seed=seed))]
    assert_drawn_from(np.array(drawn), np.exp(logits - logits.max()) / np.exp(logits - logits.max()).sum())


# --- choosing a token, against the definition


def distribution(logits: np.ndarray, temperature: float, top_k: int, top_p: float) -> np.ndarray:
    """Probabilities by the definition, token by token from the likeliest down; of equal ones the lowest id first."""
    scaled = np.asarray(logits, "float64") / temperature
    order = sorted(range(len(scaled)), key=lambda token: (-scaled[token], token))
    kept = order[:top_k] if top_k else order
    powers = np.exp(scaled[kept] - scaled[kept[0]])
    powers /= powers.sum()
    nucleus: list[int] = []
    total = 0.0
    for token, power in zip(kept, powers, strict=True):
        if nucleus and total >= top_p:
            break
        nucleus.append(token)
        total += power
    chances = np.zeros(len(scaled))
    chances[nucleus] = powers[: len(nucleus)] / powers[: len(nucleus)].sum()
    return chances


def draw(logits: Any, count: int, sampling: Sampling) -> np.ndarray:
    rows = tf.repeat(tf.constant([logits], tf.float32), count, axis=0)
    drawn = choose_token(
        rows,
        tf.constant(sampling.temperature, tf.float32),
        tf.constant(sampling.top_k),
        tf.constant(sampling.top_p, tf.float32),
        tf.constant([sampling.seed, 0], tf.int64),
    )
    assert drawn.dtype == tf.int32 and drawn.shape == (count,)
    return drawn.numpy()


def assert_drawn_from(drawn: np.ndarray, chances: np.ndarray) -> None:
    """Nothing outside the support; chi-square over tokens expected five times or more within 5 deviations."""
    counts = np.bincount(drawn, minlength=len(chances))
    assert counts[chances == 0].sum() == 0
    expected = chances * len(drawn)
    often = expected >= 5
    rest = expected[(chances > 0) & ~often].sum()
    terms = [*((counts[often] - expected[often]) ** 2 / expected[often])]
    if rest >= 5:
        terms.append((counts[(chances > 0) & ~often].sum() - rest) ** 2 / rest)
    freedom = len(terms) - 1
    # Chi-square has mean `freedom` and variance twice that.
    assert sum(terms) <= freedom + 5 * (2 * max(freedom, 1)) ** 0.5
    assert (counts[expected >= 30] > 0).all()


LOGITS = {
    "random": np.random.default_rng(0).normal(size=12) * 2,
    "ties": np.array([1.0, 2.0, 2.0, 0.5, 2.0, 0.5, 1.0, -1.0]),
    "all equal": np.zeros(6),
    "one far ahead": np.array([0.0, 40.0, 0.0, 1.0]),
    "negative": np.array([-1000.0, -1001.0, -1002.0, -1000.5]),
    "impossible": np.array([0.0, -np.inf, 1.0, -np.inf]),
    "single": np.array([3.0]),
}
SETTINGS = [
    Sampling(),
    Sampling(temperature=0.5),
    Sampling(temperature=3.0),
    Sampling(top_k=1),
    Sampling(top_k=3),
    Sampling(top_k=1000),
    Sampling(top_p=0.3),
    Sampling(top_p=0.6),
    Sampling(top_p=0.95),
    Sampling(top_p=1e-30),
    Sampling(top_p=1e-45),  # so small that a processor may take it for 0
    Sampling(1.5, 4, 0.7),
    Sampling(0.7, 2, 0.999),
]


@pytest.mark.parametrize("sampling", SETTINGS, ids=lambda s: f"{s.temperature}-{s.top_k}-{s.top_p}")
@pytest.mark.parametrize("name", LOGITS)
def test_tokens_are_drawn_from_the_definition(name: str, sampling: Sampling) -> None:
    chances = distribution(LOGITS[name], sampling.temperature, sampling.top_k, sampling.top_p)
    for seed in (1, 2):
        drawn = draw(LOGITS[name], 4000, Sampling(sampling.temperature, sampling.top_k, sampling.top_p, seed))
        assert_drawn_from(drawn, chances)


def test_the_comparison_of_distributions_can_fail() -> None:
    drawn = draw(LOGITS["random"], 4000, Sampling())
    with pytest.raises(AssertionError):
        assert_drawn_from(drawn, distribution(LOGITS["random"], 1.15, 0, 1.0))
    with pytest.raises(AssertionError):
        assert_drawn_from(drawn, distribution(LOGITS["random"], 1.0, 11, 1.0))
    with pytest.raises(AssertionError):
        assert_drawn_from(draw(LOGITS["random"], 4000, Sampling(top_k=5)), distribution(LOGITS["random"], 1.0, 6, 1.0))


def test_greedy_takes_the_first_of_the_best() -> None:
    for logits in LOGITS.values():
        assert set(draw(logits, 3, GREEDY)) == {int(np.argmax(logits))}


@pytest.mark.parametrize("temperature", [1e-3, 1e-30, 3e-38, 1e-44])
def test_a_temperature_near_zero_is_greedy(temperature: float) -> None:
    for name in ("random", "one far ahead", "negative"):
        assert set(draw(LOGITS[name], 50, Sampling(temperature))) == {int(np.argmax(LOGITS[name]))}
    assert set(draw([3e38, -3e38, 2.9e38], 50, Sampling(temperature))) == {0}


def test_no_token_is_lost_from_a_large_vocabulary(monkeypatch: pytest.MonkeyPatch) -> None:
    """Summed one after another in float32, 50257 nearly equal probabilities come to 1 before the end. The last few
    are too unlikely to wait for: this looks at what is drawn from."""
    drawn_from: list[np.ndarray] = []
    categorical = tf.random.stateless_categorical

    def record(logits: Any, *arguments: Any, **options: Any) -> Any:
        drawn_from.append(logits.numpy())
        return categorical(logits, *arguments, **options)

    monkeypatch.setattr(tf.random, "stateless_categorical", record)
    logits = np.linspace(1e-3, 0.0, 50257)
    for sampling, kept in ((Sampling(), 50257), (Sampling(top_k=50000), 50000), (Sampling(top_k=10**6), 50257)):
        draw(logits, 1, sampling)
        assert (drawn_from.pop() > -1.0).sum() == kept


# --- text


def test_text_is_continued_and_shown_as_it_grows(enliven) -> None:
    tokenizer = train_characters(["the quick brown fox jumps"])
    size = tokenizer.vocabulary_size
    model = enliven(zoo.create("gpt-nano", vocabulary_size=size, max_length=32, depth=1), seed=4)
    model.tokenizer = tokenizer
    sampling, end = Sampling(temperature=20.0, seed=3), tokenizer.end_of_text
    generator = Generator(model)
    ids = generator.generate([tokenizer.encode("quick")], 12, sampling, [end])[0]
    shown: list[str] = []
    text = generator.generate_text("quick", 12, sampling, shown.append)
    assert text == tokenizer.decode(ids) != ""
    assert shown == [tokenizer.decode(ids[: i + 1]) for i in range(len(ids))]
    from_nothing = generator.generate([[end]], 12, sampling, [end])[0]
    assert generator.generate_text("", 12, sampling) == tokenizer.decode(from_nothing) != ""
    assert zoo.generate(model, "quick", 12, temperature=20.0, seed=3) == text


def test_rows_that_stand_for_no_token_are_never_chosen(enliven) -> None:
    tokenizer = train_characters(["abc"])
    size = tokenizer.vocabulary_size
    model = enliven(zoo.create("gpt-nano", vocabulary_size=2 * size, max_length=32, depth=1), seed=5)
    free = Generator(model).generate([[1], [2], [3]], 20)
    assert max(map(max, free)) >= size
    model.tokenizer = tokenizer
    generator = Generator(model)
    assert max(map(max, generator.generate([[1], [2], [3]], 20))) < size
    generator.generate_text("abc", 20)  # decoded without an error


def test_the_prefill_s_last_logits_are_the_model_s(language_model, generator) -> None:
    """The cached backbone and `project` together are the model."""
    cache = language_model.backbone.empty_cache(1, 8)
    inputs = {"token_ids": np.array([PROMPT], "int32")}
    hidden = language_model.backbone(inputs, cache=cache, cache_index=0)["sequence"]
    assert_close(language_model.project(hidden), language_model(inputs)["logits"])
