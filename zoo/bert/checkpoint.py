"""BERT in Hugging Face's layout."""

from zoo.checkpoint import ACTIVATIONS, Field, Layout, Weight, fused, linear, norm

_OURS, _THEIRS = "backbone.transformer.block_{i}", "bert.encoder.layer.{i}"
_SELF = f"{_THEIRS}.attention.self"

LAYOUT = Layout(
    model_type="bert",
    prefix="bert.",
    architectures={
        "BertModel": "backbone",
        "BertForPreTraining": "pretrain",
        "BertForMaskedLM": "masked_lm",
        "BertForSequenceClassification": "classify",
        "BertForTokenClassification": "tag",
        "BertForQuestionAnswering": "answer",
    },
    weights=(
        Weight("backbone.token_embedding.table", ("bert.embeddings.word_embeddings.weight",)),
        Weight("backbone.position_embedding.table", ("bert.embeddings.position_embeddings.weight",)),
        Weight("backbone.segment_embedding.table", ("bert.embeddings.token_type_embeddings.weight",)),
        *norm("backbone.embedding_norm", "bert.embeddings.LayerNorm"),
        *fused(f"{_OURS}.attention.qkv", (f"{_SELF}.query", f"{_SELF}.key", f"{_SELF}.value")),
        *linear(f"{_OURS}.attention.output", f"{_THEIRS}.attention.output.dense"),
        *norm(f"{_OURS}.attention_norm", f"{_THEIRS}.attention.output.LayerNorm"),
        *linear(f"{_OURS}.feed_forward.up", f"{_THEIRS}.intermediate.dense"),
        *linear(f"{_OURS}.feed_forward.down", f"{_THEIRS}.output.dense"),
        *norm(f"{_OURS}.feed_forward_norm", f"{_THEIRS}.output.LayerNorm"),
        *linear("backbone.pooler", "bert.pooler.dense"),
        *linear("masked_lm.transform", "cls.predictions.transform.dense"),
        *norm("masked_lm.norm", "cls.predictions.transform.LayerNorm"),
        Weight("masked_lm.bias", ("cls.predictions.bias",)),
        *linear("next_sentence", "cls.seq_relationship"),
        *linear("classifier", "classifier"),
        *linear("span", "qa_outputs"),
    ),
    fields=(
        Field("vocabulary_size", ("vocab_size",)),
        Field("max_length", ("max_position_embeddings",)),
        Field("num_segments", ("type_vocab_size",)),
        Field("width", ("hidden_size",)),
        Field("depth", ("num_hidden_layers",)),
        Field("num_heads", ("num_attention_heads",)),
        Field("mlp_width", ("intermediate_size",), default=3072),
        Field("activation", ("hidden_act",), values=ACTIVATIONS),
        Field("dropout", ("hidden_dropout_prob",)),
        Field("attention_dropout", ("attention_probs_dropout_prob",)),
        Field("classifier_dropout", ("classifier_dropout",)),
        Field("epsilon", ("layer_norm_eps",)),
        Field("stddev", ("initializer_range",)),
    ),
    fixed={
        "is_decoder": (False,),
        "add_cross_attention": (False,),
        "position_embedding_type": ("absolute",),
        "tie_word_embeddings": (True,),
    },
    # Google's first release named the norms' parameters as TensorFlow does.
    renamed=(("LayerNorm.gamma", "LayerNorm.weight"), ("LayerNorm.beta", "LayerNorm.bias")),
    tied={
        "cls.predictions.decoder.weight": "bert.embeddings.word_embeddings.weight",
        "cls.predictions.decoder.bias": "cls.predictions.bias",
    },
    ignored=(r"(^|\.)embeddings\.position_ids$",),
)
