"""ViT in Hugging Face's layout."""

from zoo.checkpoint import ACTIVATIONS, PATCHES, WITH_BATCH, Field, Layout, Weight, fused, linear, norm

_OURS, _THEIRS = "backbone.transformer.block_{i}", "vit.encoder.layer.{i}"
_SELF = f"{_THEIRS}.attention.attention"

LAYOUT = Layout(
    model_type="vit",
    prefix="vit.",
    architectures={"ViTModel": "backbone", "ViTForImageClassification": "classify"},
    weights=(
        Weight("backbone.patch_embedding.class_token", ("vit.embeddings.cls_token",)),
        Weight(
            "backbone.patch_embedding.projection.kernel",
            ("vit.embeddings.patch_embeddings.projection.weight",),
            PATCHES,
        ),
        Weight("backbone.patch_embedding.projection.bias", ("vit.embeddings.patch_embeddings.projection.bias",)),
        Weight("backbone.position_embedding.table", ("vit.embeddings.position_embeddings",), WITH_BATCH),
        *norm(f"{_OURS}.attention_norm", f"{_THEIRS}.layernorm_before"),
        *fused(f"{_OURS}.attention.qkv", (f"{_SELF}.query", f"{_SELF}.key", f"{_SELF}.value")),
        *linear(f"{_OURS}.attention.output", f"{_THEIRS}.attention.output.dense"),
        *norm(f"{_OURS}.feed_forward_norm", f"{_THEIRS}.layernorm_after"),
        *linear(f"{_OURS}.feed_forward.up", f"{_THEIRS}.intermediate.dense"),
        *linear(f"{_OURS}.feed_forward.down", f"{_THEIRS}.output.dense"),
        *norm("backbone.final_norm", "vit.layernorm"),
        *linear("backbone.pooler", "vit.pooler.dense"),
        *linear("classifier", "classifier"),
    ),
    fields=(
        Field("image_size", ("image_size",)),
        Field("channels", ("num_channels",)),
        Field("patch_size", ("patch_size",)),
        Field("width", ("hidden_size",)),
        Field("depth", ("num_hidden_layers",)),
        Field("num_heads", ("num_attention_heads",)),
        Field("mlp_width", ("intermediate_size",), default=3072),
        Field("activation", ("hidden_act",), values=ACTIVATIONS),
        Field("dropout", ("hidden_dropout_prob",)),
        Field("attention_dropout", ("attention_probs_dropout_prob",)),
        Field("epsilon", ("layer_norm_eps",)),
        Field("stddev", ("initializer_range",)),
    ),
    fixed={"qkv_bias": (True,), "pooler_act": ("tanh",)},
    fixed_ours={"patch_bias": True, "embedding_norm": False},
    # Of the pretraining by masked patches.
    ignored=(r"(^|\.)embeddings\.mask_token$",),
)
