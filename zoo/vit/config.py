"""ViT's configuration and its named sizes (Dosovitskiy et al. 2021, table 1; Touvron et al. 2021, table 1)."""

import dataclasses
from typing import Any

from zoo.config import Config, setting
from zoo.errors import UserError
from zoo.sizes import dense_flops, dense_parameters, norm_parameters, stack_flops, stack_parameters


@dataclasses.dataclass(frozen=True)
class ViTConfig(Config):
    """A transformer over square patches of an image.

    Attributes:
        image_size: height and width in pixels; one number stands for both.
        channels: of an image.
        patch_size: side of a patch in pixels. Pixels at the right and the bottom that fill no patch are left out.
        width: size of a patch's vector; a multiple of `num_heads`.
        depth: number of transformer blocks.
        num_heads: attention heads of each block.
        mlp_width: inner size of the feed-forward network; None for four times `width`.
        activation: of the feed-forward network.
        dropout: rate on the embeddings and on the output of each part of a block.
        attention_dropout: rate on the attention weights.
        stochastic_depth: rate at which training leaves out a part of the last block for an image; of those before it
            less, evenly down to none of the first (Huang et al. 2016; Touvron et al. 2021, section 6).
        epsilon: of the layer norms.
        stddev: standard deviation of the initial weights.
        patch_bias: give the projection of patches a bias.
        embedding_norm: a layer norm between embeddings and blocks, as in CLIP's image tower.
        pooler: the tasks "backbone" and "embed" carry the pooler, a dense layer over the class token.
        num_classes: of the tasks "classify" and "pretrain".
        pooling: of the task "embed": the class token's vector, or the mean of the patches.
        normalize: divide embeddings by their length.
    """

    image_size: tuple[int, int] = setting((224, 224), low=1, high=100_000)
    channels: int = setting(3, low=1, high=1_000)
    patch_size: int = setting(16, low=1, high=10_000)
    width: int = setting(768, low=1, high=100_000)
    depth: int = setting(12, low=1, high=1_000)
    num_heads: int = setting(12, low=1, high=1_000)
    mlp_width: int | None = setting(None, low=1, high=1_000_000)
    activation: str = setting("gelu", choices=("gelu", "gelu_tanh", "quick_gelu", "relu"))
    dropout: float = setting(0.0, low=0.0, high=0.99)
    attention_dropout: float = setting(0.0, low=0.0, high=0.99)
    stochastic_depth: float = setting(0.0, low=0.0, high=0.99)
    epsilon: float = setting(1e-12, low=0.0, high=1.0)
    stddev: float = setting(0.02, low=0.0, high=10.0)
    patch_bias: bool = setting(True)
    embedding_norm: bool = setting(False)
    pooler: bool = setting(True)
    num_classes: int = setting(1000, low=1, high=1_000_000)
    pooling: str = setting("first", choices=("first", "mean"))
    normalize: bool = setting(False)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.width % self.num_heads:
            raise UserError(f"ViTConfig: width is {self.width}, and must be a multiple of num_heads {self.num_heads}")
        if min(self.image_size) < self.patch_size:
            raise UserError(
                f"ViTConfig: image_size is {self.image_size}, and must be at least patch_size {self.patch_size}"
            )

    @property
    def inner_width(self) -> int:
        """The inner size of the feed-forward network in force."""
        return self.mlp_width or 4 * self.width

    @property
    def grid(self) -> tuple[int, int]:
        """Rows and columns of patches."""
        return self.image_size[0] // self.patch_size, self.image_size[1] // self.patch_size

    @property
    def tokens(self) -> int:
        """Patches and the class token."""
        return 1 + self.grid[0] * self.grid[1]

    def count_parameters(self, task: str) -> int:
        """See `Config.count_parameters`."""
        width = self.width
        patches = dense_parameters(self.channels * self.patch_size**2, width, self.patch_bias)
        norms = norm_parameters(width) * (2 if self.embedding_norm else 1)
        total = patches + (1 + self.tokens) * width + stack_parameters(self.depth, width, self.inner_width) + norms
        if task in ("classify", "pretrain"):
            return total + dense_parameters(width, self.num_classes)
        return total + (dense_parameters(width, width) if self.pooler else 0)

    def count_flops(self) -> int:
        """For an image, its class logits included."""
        patches = dense_flops(self.tokens - 1, self.channels * self.patch_size**2, self.width)
        stack = stack_flops(self.tokens, self.depth, self.width, self.inner_width)
        return patches + stack + dense_flops(1, self.width, self.num_classes)

    def make_preprocessing(self) -> Any:
        """As the published checkpoints do it; None where images are no colour pictures."""
        from zoo.image import Preprocessing

        return Preprocessing.for_vit(*self.image_size) if self.channels == 3 else None


def _size(width: int, depth: int, patch_size: int, image_size: int = 224) -> ViTConfig:
    return ViTConfig((image_size, image_size), patch_size=patch_size, width=width, depth=depth, num_heads=width // 64)


PRESETS: dict[str, ViTConfig] = {
    # Three of our own for images of 32 pixels: for tests, for minutes on a CPU, and for an hour.
    "vit-nano": ViTConfig((32, 32), patch_size=8, width=32, depth=2, num_heads=2, num_classes=10),
    "vit-micro": ViTConfig((32, 32), patch_size=4, width=96, depth=4, num_heads=3, num_classes=10),
    "vit-mini": ViTConfig((32, 32), patch_size=4, width=192, depth=6, num_heads=3, num_classes=10),
    "vit-ti16": _size(192, 12, 16),
    "vit-s16": _size(384, 12, 16),
    "vit-s32": _size(384, 12, 32),
    "vit-b16": _size(768, 12, 16),
    "vit-b32": _size(768, 12, 32),
    "vit-l16": _size(1024, 24, 16),
}
