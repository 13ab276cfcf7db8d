"""CLIP in Hugging Face's layout: both towers have the same blocks there too."""

from zoo.checkpoint import (
    ACTIVATIONS,
    BARE,
    PATCHES,
    TRANSPOSED,
    Field,
    Layout,
    Weight,
    fused,
    linear,
    norm,
)


def _blocks(ours: str, theirs: str) -> tuple[Weight, ...]:
    ours, theirs = f"{ours}.transformer.block_{{i}}", f"{theirs}.encoder.layers.{{i}}"
    attention = f"{theirs}.self_attn"
    return (
        *norm(f"{ours}.attention_norm", f"{theirs}.layer_norm1"),
        *fused(f"{ours}.attention.qkv", (f"{attention}.q_proj", f"{attention}.k_proj", f"{attention}.v_proj")),
        *linear(f"{ours}.attention.output", f"{attention}.out_proj"),
        *norm(f"{ours}.feed_forward_norm", f"{theirs}.layer_norm2"),
        *linear(f"{ours}.feed_forward.up", f"{theirs}.mlp.fc1"),
        *linear(f"{ours}.feed_forward.down", f"{theirs}.mlp.fc2"),
    )


def _tower(ours: str, theirs: str, mlp_width: int) -> tuple[Field, ...]:
    names = {
        "width": "hidden_size",
        "depth": "num_hidden_layers",
        "num_heads": "num_attention_heads",
        "attention_dropout": "attention_dropout",
        "epsilon": "layer_norm_eps",
        "stddev": "initializer_range",
    }
    return (
        *(Field(f"{ours}.{our_name}", (f"{theirs}.{their_name}",)) for our_name, their_name in names.items()),
        Field(f"{ours}.mlp_width", (f"{theirs}.intermediate_size",), default=mlp_width),
        Field(f"{ours}.activation", (f"{theirs}.hidden_act",), values=ACTIVATIONS),
    )


LAYOUT = Layout(
    model_type="clip",
    prefix="",
    architectures={"CLIPModel": "contrast"},
    weights=(
        Weight("vision.patch_embedding.class_token", ("vision_model.embeddings.class_embedding",), BARE),
        Weight(
            "vision.patch_embedding.projection.kernel", ("vision_model.embeddings.patch_embedding.weight",), PATCHES
        ),
        Weight("vision.position_embedding.table", ("vision_model.embeddings.position_embedding.weight",)),
        *norm("vision.embedding_norm", "vision_model.pre_layrnorm"),  # spelt so
        *_blocks("vision", "vision_model"),
        *norm("vision.final_norm", "vision_model.post_layernorm"),
        Weight("image_projection.kernel", ("visual_projection.weight",), TRANSPOSED),
        Weight("text.token_embedding.table", ("text_model.embeddings.token_embedding.weight",)),
        Weight("text.position_embedding.table", ("text_model.embeddings.position_embedding.weight",)),
        *_blocks("text", "text_model"),
        *norm("text.final_norm", "text_model.final_layer_norm"),
        Weight("text_projection.kernel", ("text_projection.weight",), TRANSPOSED),
        Weight("similarity.log_scale", ("logit_scale",)),
    ),
    fields=(
        Field("vision.image_size", ("vision_config.image_size",)),
        Field("vision.channels", ("vision_config.num_channels",)),
        Field("vision.patch_size", ("vision_config.patch_size",)),
        *_tower("vision", "vision_config", 3072),
        Field("text.vocabulary_size", ("text_config.vocab_size",)),
        Field("text.max_length", ("text_config.max_position_embeddings",)),
        *_tower("text", "text_config", 2048),
        Field("projection_width", ("projection_dim",)),
        # Configs of the first checkpoints say 2, which is no end token and means the highest id.
        Field("end_token", ("text_config.eos_token_id",), values=((2, None),)),
    ),
    square_images=True,
    fixed_ours={
        "vision.patch_bias": False,
        "vision.embedding_norm": True,
        "vision.dropout": 0.0,
        "text.dropout": 0.0,
        "loss": "softmax",
        "text_pooling": "end",
    },
    # The image tower of old files can hold its position ids too.
    ignored=(r"(^|\.)embeddings\.position_ids$",),
)
