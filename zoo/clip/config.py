"""CLIP's configuration and its named sizes (Radford et al. 2021, table 20)."""

import dataclasses
from typing import Any

from zoo.bert.config import BERTConfig
from zoo.config import Config, setting
from zoo.errors import UserError
from zoo.gpt.config import GPTConfig
from zoo.sizes import dense_flops, stack_flops
from zoo.vit.config import ViTConfig


def _vision(patch_size: int, width: int = 768, depth: int = 12, num_heads: int = 12) -> ViTConfig:
    return ViTConfig(
        patch_size=patch_size,
        width=width,
        depth=depth,
        num_heads=num_heads,
        activation="quick_gelu",
        epsilon=1e-5,
        patch_bias=False,
        embedding_norm=True,
        pooler=False,
    )


def _text(width: int = 512, num_heads: int = 8) -> GPTConfig:
    return GPTConfig(
        vocabulary_size=49408,
        max_length=77,
        width=width,
        num_heads=num_heads,
        activation="quick_gelu",
        dropout=0.0,
        attention_dropout=0.0,
    )


_VISION, _TEXT = _vision(32), _text()


@dataclasses.dataclass(frozen=True)
class CLIPConfig(Config):
    """Two encoders and the projections that take them to one space.

    Attributes:
        vision: the image tower, a ViT.
        text: the text tower, a GPT, or a BERT.
        projection_width: size of the embeddings.
        text_pooling: where a text is pooled: at its "end" token; at its "last" real token, whatever that is, as by a
            GPT whose tokenizer ends no text; of a BERT, at its "first" (Zhai et al. 2022, section 4.1), or by the
            "mean" of its real tokens (Reimers and Gurevych 2019, section 3).
        end_token: the id of the token at whose first place a text is pooled; None pools at the highest id, which in
            OpenAI's vocabulary is the end token, and is what its first checkpoints were published with.
        loss: "softmax" (Radford et al. 2021, figure 3) or "sigmoid", which adds a bias to the logits (Zhai et al. 2023,
            section 3.2).
        initial_temperature: what fresh logits are divided by; None for 0.07 (softmax) or 0.1 (sigmoid).
    """

    vision: ViTConfig = _VISION
    text: GPTConfig | BERTConfig = _TEXT
    projection_width: int = setting(512, low=1, high=100_000)
    text_pooling: str = setting("end", choices=("end", "last", "first", "mean"))
    end_token: int | None = setting(49407, low=0, high=10_000_000)
    loss: str = setting("softmax", choices=("softmax", "sigmoid"))
    initial_temperature: float | None = setting(None, low=0.01, high=100.0)

    def __post_init__(self) -> None:
        super().__post_init__()
        for name, tower in (("vision", self.vision), ("text", self.text)):
            if not isinstance(tower, GPTConfig) and tower.pooler:
                raise UserError(f"CLIPConfig: {name}.pooler is True, and must be False: the projection takes its place")
        # The first token of a GPT sees no other.
        family, poolings = ("GPT", ("end", "last")) if isinstance(self.text, GPTConfig) else ("BERT", ("first", "mean"))
        if self.text_pooling not in poolings:
            allowed = " or ".join(repr(each) for each in poolings)
            raise UserError(f"CLIPConfig: text_pooling is {self.text_pooling!r}, and of a {family} must be {allowed}")
        if self.end_token is not None and self.end_token >= self.text.vocabulary_size:
            raise UserError(
                f"CLIPConfig: end_token is {self.end_token}, and must be below the vocabulary_size of text, "
                f"{self.text.vocabulary_size}, or null"
            )

    @property
    def vocabulary_size(self) -> int:
        """Of the text tower."""
        return self.text.vocabulary_size

    @property
    def max_length(self) -> int:
        """Of a text, in tokens."""
        return self.text.max_length

    @property
    def image_size(self) -> tuple[int, int]:
        """Height and width of an image, in pixels."""
        return self.vision.image_size

    @property
    def temperature(self) -> float:
        """The initial temperature in force."""
        return self.initial_temperature or (0.07 if self.loss == "softmax" else 0.1)

    def count_parameters(self, task: str) -> int:
        """See `Config.count_parameters`."""
        towers = self.vision.count_parameters("backbone") + self.text.count_parameters("backbone")
        projections = (self.vision.width + self.text.width) * self.projection_width
        return towers + projections + (1 if self.loss == "softmax" else 2)

    def count_flops(self) -> int:
        """For an image and a text of full length."""
        v, t = self.vision, self.text
        vision = dense_flops(v.tokens - 1, v.channels * v.patch_size**2, v.width)
        vision += stack_flops(v.tokens, v.depth, v.width, v.inner_width)
        text = stack_flops(t.max_length, t.depth, t.width, t.inner_width)
        # The last one is the similarity of the two.
        return vision + text + dense_flops(1, v.width + t.width + 1, self.projection_width)

    def make_preprocessing(self) -> Any:
        """As the published checkpoints do it; None where images are no colour pictures."""
        from zoo.image import Preprocessing

        if self.vision.channels != 3:
            return None
        return Preprocessing.for_clip(min(self.vision.image_size)).with_output_size(*self.vision.image_size)


PRESETS: dict[str, CLIPConfig] = {
    # Three of our own for images of 32 and 64 pixels and short captions: for tests, for minutes on a CPU, and for an
    # hour. Where the blocks of small towers begin near zero, all texts are alike to them, and nothing is learnt for
    # long. OpenAI's begin with deviations of about one over the root of the width; here it is 0.6 over that.
    "clip-nano": CLIPConfig(
        _vision(8, 32, 2, 2).replace(image_size=32, stddev=0.1),
        _text(24, 2).replace(vocabulary_size=512, max_length=16, depth=2, stddev=0.1),
        projection_width=16,
        end_token=511,
    ),
    "clip-micro": CLIPConfig(
        _vision(4, 96, 4, 3).replace(image_size=32, stddev=0.06),
        _text(96, 3).replace(vocabulary_size=4096, max_length=32, depth=4, stddev=0.06),
        projection_width=64,
        end_token=4095,
    ),
    "clip-mini": CLIPConfig(
        _vision(8, 192, 6, 3).replace(image_size=64, stddev=0.04),
        _text(192, 3).replace(vocabulary_size=8192, max_length=32, depth=6, stddev=0.04),
        projection_width=128,
        end_token=8191,
    ),
    "clip-b32": CLIPConfig(),
    "clip-b16": CLIPConfig(_vision(16)),
    "clip-l14": CLIPConfig(_vision(14, 1024, 24, 16), _text(768, 12), projection_width=768),
}
