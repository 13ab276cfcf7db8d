"""GPT-2's configuration and its named sizes (Radford et al. 2019, table 2)."""

import dataclasses

from zoo.config import Config, setting
from zoo.errors import UserError
from zoo.sizes import dense_flops, norm_parameters, stack_flops, stack_parameters


@dataclasses.dataclass(frozen=True)
class GPTConfig(Config):
    """A decoder-only transformer of the GPT-2 architecture.

    Attributes:
        vocabulary_size: token ids are 0 to `vocabulary_size - 1`.
        max_length: the context in tokens.
        width: size of a token's vector; a multiple of `num_heads`.
        depth: number of transformer blocks.
        num_heads: attention heads of each block.
        mlp_width: inner size of the feed-forward network; None for four times `width`.
        activation: of the feed-forward network.
        dropout: rate on the embeddings and on the output of each part of a block.
        attention_dropout: rate on the attention weights.
        epsilon: of the layer norms.
        stddev: standard deviation of the initial weights.
        num_classes: of the task "classify".
        pooling: of the task "embed": the last token's vector, or the mean of all.
        normalize: divide embeddings by their length.
    """

    # The bounds are far beyond any published model, and keep a wrong file from asking for absurd sizes.
    vocabulary_size: int = setting(50257, low=1, high=10_000_000)
    max_length: int = setting(1024, low=1, high=1_000_000)
    width: int = setting(768, low=1, high=100_000)
    depth: int = setting(12, low=1, high=1_000)
    num_heads: int = setting(12, low=1, high=1_000)
    mlp_width: int | None = setting(None, low=1, high=1_000_000)
    activation: str = setting("gelu_tanh", choices=("gelu_tanh", "gelu", "quick_gelu", "relu"))
    dropout: float = setting(0.1, low=0.0, high=0.99)
    attention_dropout: float = setting(0.1, low=0.0, high=0.99)
    epsilon: float = setting(1e-5, low=0.0, high=1.0)
    stddev: float = setting(0.02, low=0.0, high=10.0)
    num_classes: int = setting(2, low=1, high=1_000_000)
    pooling: str = setting("last", choices=("last", "mean"))
    normalize: bool = setting(False)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.width % self.num_heads:
            raise UserError(f"GPTConfig: width is {self.width}, and must be a multiple of num_heads {self.num_heads}")

    @property
    def inner_width(self) -> int:
        """The inner size of the feed-forward network in force."""
        return self.mlp_width or 4 * self.width

    def count_parameters(self, task: str) -> int:
        """See `Config.count_parameters`; the tied logits are counted once."""
        embeddings = (self.vocabulary_size + self.max_length) * self.width
        stack = stack_parameters(self.depth, self.width, self.inner_width)
        head = self.width * self.num_classes if task == "classify" else 0
        return embeddings + stack + norm_parameters(self.width) + head

    def count_flops(self) -> int:
        """For a token of a full context, its logits included."""
        stack = stack_flops(self.max_length, self.depth, self.width, self.inner_width)
        return (stack + dense_flops(self.max_length, self.width, self.vocabulary_size)) // self.max_length


PRESETS: dict[str, GPTConfig] = {
    # Two of our own: one for tests, and one of about a million weights that a CPU trains in minutes.
    "gpt-nano": GPTConfig(vocabulary_size=512, max_length=64, width=32, depth=2, num_heads=2),
    "gpt-mini": GPTConfig(
        vocabulary_size=2048, max_length=128, width=128, depth=4, num_heads=4, dropout=0.0, attention_dropout=0.0
    ),
    "gpt2": GPTConfig(),
    "gpt2-medium": GPTConfig(width=1024, depth=24, num_heads=16),
    "gpt2-large": GPTConfig(width=1280, depth=36, num_heads=20),
    "gpt2-xl": GPTConfig(width=1600, depth=48, num_heads=25),
}
