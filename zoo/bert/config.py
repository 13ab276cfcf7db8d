"""BERT's configuration and its named sizes (Devlin et al. 2019, section 3; Turc et al. 2019, table 1)."""

import dataclasses

from zoo.config import Config, setting
from zoo.errors import UserError
from zoo.sizes import dense_flops, dense_parameters, norm_parameters, stack_flops, stack_parameters


@dataclasses.dataclass(frozen=True)
class BERTConfig(Config):
    """An encoder-only transformer of the BERT architecture.

    Attributes:
        vocabulary_size: token ids are 0 to `vocabulary_size - 1`.
        max_length: the longest input in tokens.
        num_segments: segment ids are 0 to `num_segments - 1`.
        width: size of a token's vector; a multiple of `num_heads`.
        depth: number of transformer blocks.
        num_heads: attention heads of each block.
        mlp_width: inner size of the feed-forward network; None for four times `width`.
        activation: of the feed-forward network and of the masked-token head.
        dropout: rate on the embeddings and on the output of each part of a block.
        attention_dropout: rate on the attention weights.
        classifier_dropout: rate before the layer of the tasks "classify" and "tag"; None for `dropout`.
        epsilon: of the layer norms.
        stddev: standard deviation of the initial weights.
        pooler: the tasks "backbone" and "embed" carry the pooler, a dense layer over the first token; "pretrain" and
            "classify" always have it, the others never.
        num_classes: of the tasks "classify" and "tag".
        pooling: of the task "embed": the mean of the real tokens, or the first token's vector.
        normalize: divide embeddings by their length.
    """

    vocabulary_size: int = setting(30522, low=1, high=10_000_000)
    max_length: int = setting(512, low=1, high=1_000_000)
    num_segments: int = setting(2, low=1, high=1_000_000)
    width: int = setting(768, low=1, high=100_000)
    depth: int = setting(12, low=1, high=1_000)
    num_heads: int = setting(12, low=1, high=1_000)
    mlp_width: int | None = setting(None, low=1, high=1_000_000)
    activation: str = setting("gelu", choices=("gelu", "gelu_tanh", "quick_gelu", "relu"))
    dropout: float = setting(0.1, low=0.0, high=0.99)
    attention_dropout: float = setting(0.1, low=0.0, high=0.99)
    classifier_dropout: float | None = setting(None, low=0.0, high=0.99)
    epsilon: float = setting(1e-12, low=0.0, high=1.0)
    stddev: float = setting(0.02, low=0.0, high=10.0)
    pooler: bool = setting(True)
    num_classes: int = setting(2, low=1, high=1_000_000)
    pooling: str = setting("mean", choices=("mean", "first"))
    normalize: bool = setting(False)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.width % self.num_heads:
            raise UserError(f"BERTConfig: width is {self.width}, and must be a multiple of num_heads {self.num_heads}")

    @property
    def inner_width(self) -> int:
        """The inner size of the feed-forward network in force."""
        return self.mlp_width or 4 * self.width

    def count_parameters(self, task: str) -> int:
        """See `Config.count_parameters`; the tied logits of masked tokens are counted once."""
        width = self.width
        embeddings = (self.vocabulary_size + self.max_length + self.num_segments) * width + norm_parameters(width)
        masked_lm = dense_parameters(width, width) + norm_parameters(width) + self.vocabulary_size
        heads = {
            "pretrain": masked_lm + dense_parameters(width, 2),
            "masked_lm": masked_lm,
            "classify": dense_parameters(width, self.num_classes),
            "tag": dense_parameters(width, self.num_classes),
            "answer": dense_parameters(width, 2),
        }
        has_pooler = task in ("pretrain", "classify") or (task in ("backbone", "embed") and self.pooler)
        pooler = dense_parameters(width, width) if has_pooler else 0
        return embeddings + stack_parameters(self.depth, width, self.inner_width) + pooler + heads.get(task, 0)

    def count_flops(self) -> int:
        """For a token of an input of `max_length`, the pooler included."""
        stack = stack_flops(self.max_length, self.depth, self.width, self.inner_width)
        return (stack + dense_flops(1, self.width, self.width)) // self.max_length


def _size(width: int, depth: int) -> BERTConfig:
    return BERTConfig(width=width, depth=depth, num_heads=width // 64)


PRESETS: dict[str, BERTConfig] = {
    "bert-nano": BERTConfig(vocabulary_size=512, max_length=64, width=32, depth=2, num_heads=2),
    "bert-tiny": _size(128, 2),
    "bert-mini": _size(256, 4),
    "bert-small": _size(512, 4),
    "bert-medium": _size(512, 8),
    "bert-base": _size(768, 12),
    "bert-large": _size(1024, 24),
}
