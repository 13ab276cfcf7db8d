"""GPT-2 in Hugging Face's layout. Its linear layers are stored (inputs, outputs), as ours are, and query, key and value
fused."""

from zoo.checkpoint import ACTIVATIONS, TRANSPOSED, Field, Layout, Weight

_BLOCK = (
    ("attention_norm.gamma", "ln_1.weight"),
    ("attention_norm.beta", "ln_1.bias"),
    ("attention.qkv.kernel", "attn.c_attn.weight"),
    ("attention.qkv.bias", "attn.c_attn.bias"),
    ("attention.output.kernel", "attn.c_proj.weight"),
    ("attention.output.bias", "attn.c_proj.bias"),
    ("feed_forward_norm.gamma", "ln_2.weight"),
    ("feed_forward_norm.beta", "ln_2.bias"),
    ("feed_forward.up.kernel", "mlp.c_fc.weight"),
    ("feed_forward.up.bias", "mlp.c_fc.bias"),
    ("feed_forward.down.kernel", "mlp.c_proj.weight"),
    ("feed_forward.down.bias", "mlp.c_proj.bias"),
)

LAYOUT = Layout(
    model_type="gpt2",
    prefix="transformer.",
    architectures={
        "GPT2Model": "backbone",
        "GPT2LMHeadModel": "generate",
        "GPT2ForSequenceClassification": "classify",
    },
    weights=(
        Weight("backbone.token_embedding.table", ("transformer.wte.weight",)),
        Weight("backbone.position_embedding.table", ("transformer.wpe.weight",)),
        *(
            Weight(f"backbone.transformer.block_{{i}}.{ours}", (f"transformer.h.{{i}}.{theirs}",))
            for ours, theirs in _BLOCK
        ),
        Weight("backbone.final_norm.gamma", ("transformer.ln_f.weight",)),
        Weight("backbone.final_norm.beta", ("transformer.ln_f.bias",)),
        Weight("classifier.kernel", ("score.weight",), TRANSPOSED),
    ),
    fields=(
        Field("vocabulary_size", ("vocab_size",)),
        Field("max_length", ("n_positions",)),
        Field("width", ("n_embd",)),
        Field("depth", ("n_layer",)),
        Field("num_heads", ("n_head",)),
        Field("mlp_width", ("n_inner",)),
        Field("activation", ("activation_function",), values=ACTIVATIONS),
        Field("dropout", ("resid_pdrop", "embd_pdrop")),
        Field("attention_dropout", ("attn_pdrop",)),
        Field("epsilon", ("layer_norm_epsilon",)),
        Field("stddev", ("initializer_range",)),
    ),
    fixed={
        "add_cross_attention": (False,),
        "scale_attn_weights": (True,),
        "scale_attn_by_inverse_layer_idx": (False,),
        "tie_word_embeddings": (True,),
    },
    tied={"lm_head.weight": "transformer.wte.weight"},
    # The causal mask, which older versions stored as a tensor.
    ignored=(r"(^|\.)h\.\d+\.attn\.(bias|masked_bias)$",),
)
