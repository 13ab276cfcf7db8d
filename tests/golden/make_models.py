"""Makes `tests/golden/models/` with transformers and PyTorch: tiny random checkpoints, and what the reference makes of
them.

    python tests/golden/make_models.py

Needs transformers 5 and PyTorch; running it again with the same versions changes nothing. In each folder lie the files
that transformers writes (config.json, model.safetensors; for embedders also what sentence-transformers adds) and
`expected.safetensors`: for each call of the model its inputs, its labels and its outputs, named CALL.NAME, with the
names that inputs and outputs have in this project. Everything is computed in float64 and stored in float32. The calls:

    long, short     texts of the greatest length, and of fewer tokens; both with padding
    own, larger, odd    images of the configured size, and of others, for which positions are interpolated
    pairs           as many images as texts, which is when CLIP has a loss
    float16, bfloat16   the first call with weights rounded to these types, without loss
"""

import dataclasses
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
import transformers
from torch import Tensor

OUT = Path(__file__).with_name("models")

VOCABULARY, LONG, SHORT = 32, 12, 7
IGNORED = -100  # the label of a token that has no part in the loss

INPUTS = {
    "input_ids": "token_ids",
    "attention_mask": "padding_mask",
    "token_type_ids": "segment_ids",
    "pixel_values": "images",
}
OUTPUTS = {
    "last_hidden_state": "sequence",
    "pooler_output": "pooled",
    "prediction_logits": "logits",
    "seq_relationship_logits": "next_sentence",
    "logits": "logits",
    "start_logits": "start_logits",
    "end_logits": "end_logits",
    "image_embeds": "image_embedding",
    "text_embeds": "text_embedding",
    "logits_per_image": "logits_per_image",
    "logits_per_text": "logits_per_text",
    "loss": "loss",
}

Call = dict[str, Any]  # the reference's arguments
Pool = Callable[[Tensor, Tensor], Tensor]  # (batch, tokens, width) and the mask to (batch, width)


@dataclasses.dataclass
class Golden:
    """One checkpoint: the reference's model, the calls, and how its tokens are pooled where it is an embedder."""

    model: Any
    calls: dict[str, Call]
    pool: Pool | None = None
    modules: tuple[str, dict[str, bool]] | None = None


def enliven(model: Any) -> Any:
    """Give every weight a value of ordinary size: with fresh ones many mistakes would not show in the outputs."""
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            noise = torch.randn_like(parameter)
            if parameter.ndim == 0:  # CLIP's logarithm of the scale
                noise.fill_(1.3)
            elif parameter.ndim == 1 and name.endswith("weight"):  # of a layer norm
                noise = 1.0 + 0.2 * noise
            elif parameter.ndim == 4 or not ("embedding" in name or name.endswith(("wte.weight", "wpe.weight"))):
                noise *= 0.3
            parameter.copy_(noise)
    return model.eval()


def text_calls(segments: int | None = None, vocabulary: int = VOCABULARY) -> dict[str, Call]:
    """Two texts at two lengths, the second one padded."""
    calls = {}
    for name, length in (("long", LONG), ("short", SHORT)):
        mask = torch.ones(2, length, dtype=torch.long)
        mask[1, length // 2 + 2 :] = 0
        calls[name] = {"input_ids": torch.randint(vocabulary, (2, length)), "attention_mask": mask}
        if segments:
            calls[name]["token_type_ids"] = torch.randint(segments, (2, length))
    return calls


def with_labels(calls: dict[str, Call], make: Callable[[Call], dict[str, Tensor]]) -> dict[str, Call]:
    return {name: {**call, **make(call)} for name, call in calls.items()}


def some_tokens(call: Call, classes: int) -> Tensor:
    """A label for some of the real tokens."""
    labels = torch.randint(classes, call["input_ids"].shape)
    chosen = (torch.rand(labels.shape) < 0.5) & (call["attention_mask"] == 1)
    chosen[:, 0] = True
    chosen[0, 1::2] = True  # more in one row than in the other
    return labels.where(chosen, torch.tensor(IGNORED))


def bert_config(**fields: Any) -> transformers.BertConfig:
    small = {
        "vocab_size": VOCABULARY,
        "max_position_embeddings": LONG,
        "hidden_size": 12,
        "num_hidden_layers": 2,
        "num_attention_heads": 3,
        "intermediate_size": 20,
    }
    return transformers.BertConfig(**{**small, **fields})


def make_bert() -> dict[str, Golden]:
    odd = bert_config(
        hidden_size=15,
        num_attention_heads=5,
        num_hidden_layers=3,
        intermediate_size=22,
        hidden_act="gelu_new",
        layer_norm_eps=1e-3,
        type_vocab_size=3,
    )
    plain = bert_config()
    named = bert_config(
        hidden_act="quick_gelu",
        layer_norm_eps=1e-5,
        id2label={0: "to sea", 1: "to land", 2: "überall", 3: "nowhere"},
        label2id={"to sea": 0, "to land": 1, "überall": 2, "nowhere": 3},
    )
    tags = bert_config(num_attention_heads=1, num_hidden_layers=1, num_labels=5, classifier_dropout=0.3)
    wide = bert_config(hidden_act="gelu_pytorch_tanh", num_attention_heads=6, intermediate_size=48, num_hidden_layers=1)
    answers = bert_config(hidden_act="relu", intermediate_size=9, num_attention_heads=4, type_vocab_size=1)
    of_two = (2,)
    return {
        "bert-backbone": Golden(transformers.BertModel(odd), text_calls(3)),
        "bert-pretrain": Golden(
            transformers.BertForPreTraining(plain),
            with_labels(
                text_calls(2),
                lambda call: {
                    "labels": some_tokens(call, VOCABULARY),
                    "next_sentence_label": torch.randint(2, of_two),
                },
            ),
        ),
        "bert-masked_lm": Golden(
            transformers.BertForMaskedLM(wide),
            with_labels(text_calls(2), lambda call: {"labels": some_tokens(call, VOCABULARY)}),
        ),
        "bert-classify": Golden(
            transformers.BertForSequenceClassification(named),
            with_labels(text_calls(2), lambda call: {"labels": torch.randint(4, of_two)}),
        ),
        "bert-tag": Golden(
            transformers.BertForTokenClassification(tags),
            with_labels(text_calls(2), lambda call: {"labels": some_tokens(call, 5)}),
        ),
        "bert-answer": Golden(
            transformers.BertForQuestionAnswering(answers),
            with_labels(
                text_calls(1),
                lambda call: {"start_positions": torch.tensor([1, 3]), "end_positions": torch.tensor([4, 3])},
            ),
        ),
        "bert-embed": Golden(
            transformers.BertModel(plain), text_calls(2), lambda x, mask: unit(mean(x, mask)), ("mean_tokens", True)
        ),
        "bert-embed-first": Golden(
            transformers.BertModel(odd, add_pooling_layer=False),
            text_calls(3),
            lambda x, mask: x[:, 0],
            ("cls_token", False),
        ),
    }


def mean(x: Tensor, mask: Tensor) -> Tensor:
    """As sentence-transformers pools."""
    weights = mask[..., None].to(x.dtype)
    return (x * weights).sum(1) / weights.sum(1).clamp(min=1e-9)


def unit(x: Tensor) -> Tensor:
    return torch.nn.functional.normalize(x, p=2, dim=1)


def make_gpt() -> dict[str, Golden]:
    def config(**fields: Any) -> transformers.GPT2Config:
        small = {"vocab_size": VOCABULARY, "n_positions": LONG, "n_embd": 12, "n_layer": 2, "n_head": 3, "n_inner": 20}
        none = {"bos_token_id": None, "eos_token_id": None}
        return transformers.GPT2Config(**{**small, **none, **fields})

    odd = config(n_embd=15, n_head=5, n_layer=3, n_inner=None, layer_norm_epsilon=1e-3, activation_function="relu")
    # The padding is found by its id: no other token may have it.
    pad = VOCABULARY - 1
    padded = text_calls(vocabulary=pad)
    for call in padded.values():
        call["input_ids"] = call["input_ids"].where(call["attention_mask"] == 1, torch.tensor(pad))
    return {
        "gpt-backbone": Golden(transformers.GPT2Model(odd), text_calls()),
        "gpt-generate": Golden(
            transformers.GPT2LMHeadModel(config()),
            with_labels(
                text_calls(),
                lambda call: {"labels": call["input_ids"].where(call["attention_mask"] == 1, torch.tensor(IGNORED))},
            ),
        ),
        "gpt-classify": Golden(
            transformers.GPT2ForSequenceClassification(
                config(num_labels=3, pad_token_id=pad, activation_function="gelu", n_inner=17)
            ),
            with_labels(padded, lambda call: {"labels": torch.randint(3, (2,))}),
        ),
        "gpt-embed": Golden(
            transformers.GPT2Model(config(n_layer=1, n_head=1)),
            text_calls(),
            lambda x, mask: unit(x[torch.arange(len(x)), mask.sum(1) - 1]),
            ("lasttoken", True),
        ),
    }


def make_vit() -> dict[str, Golden]:
    def config(**fields: Any) -> transformers.ViTConfig:
        small = {"hidden_size": 12, "num_hidden_layers": 2, "num_attention_heads": 3, "intermediate_size": 20}
        return transformers.ViTConfig(**{**small, "image_size": 16, "patch_size": 4, **fields})

    def images(*sizes: tuple[str, int, int], channels: int = 3) -> dict[str, Call]:
        return {
            name: {
                "pixel_values": torch.randn(2, channels, height, width),
                "interpolate_pos_encoding": name != "own",
            }
            for name, height, width in sizes
        }

    oblong = config(
        image_size=[12, 20],
        num_channels=2,
        hidden_size=15,
        num_attention_heads=5,
        num_hidden_layers=2,
        hidden_act="gelu_new",
        layer_norm_eps=1e-3,
    )
    square = config(
        intermediate_size=9,
        id2label={0: "cat", 1: "dog", 2: "a bird"},
        label2id={"cat": 0, "dog": 1, "a bird": 2},
    )
    return {
        "vit-backbone": Golden(transformers.ViTModel(oblong), images(("own", 12, 20), channels=2)),
        "vit-classify": Golden(
            transformers.ViTForImageClassification(square),
            with_labels(
                # The last size is smaller than the configured one, and no multiple of the patch's.
                images(("own", 16, 16), ("larger", 20, 28), ("odd", 13, 23)),
                lambda call: {"labels": torch.randint(3, (2,))},
            ),
        ),
    }


def make_clip() -> dict[str, Golden]:
    def model(end: int, text: dict[str, Any], vision: dict[str, Any], width: int) -> Any:
        shared_text = {"vocab_size": VOCABULARY, "max_position_embeddings": LONG, "eos_token_id": end}
        shared_vision = {"image_size": 16, "patch_size": 4}
        return transformers.CLIPModel(
            transformers.CLIPConfig(
                text_config={"bos_token_id": 0, "pad_token_id": 1, **shared_text, **text},
                vision_config={**shared_vision, **vision},
                projection_dim=width,
            )
        )

    def calls(end: int, padding: int) -> dict[str, Call]:
        calls = {}
        # More images than texts, the longest text among them; then as many, and shorter.
        for name, images, ends in (("long", 3, (11, 5)), ("pairs", 2, (3, 6))):
            length = max(ends) + 1
            ids = torch.randint(2, VOCABULARY - 1, (2, length))  # higher ones than the end token too
            ids[ids == end] = 2
            mask = torch.ones_like(ids)
            for row, last in enumerate(ends):
                ids[row, last], ids[row, last + 1 :], mask[row, last + 1 :] = end, padding, 0
            calls[name] = {
                "input_ids": ids,
                "attention_mask": mask,
                "pixel_values": torch.randn(images, 3, 16, 16),
                "return_loss": images == len(ids),
            }
        return calls

    highest = VOCABULARY - 1
    return {
        "clip-contrast": Golden(
            model(
                20,
                {"hidden_size": 8, "num_hidden_layers": 3, "num_attention_heads": 2, "intermediate_size": 13},
                {"hidden_size": 15, "num_hidden_layers": 2, "num_attention_heads": 5, "intermediate_size": 11}
                | {"hidden_act": "gelu", "layer_norm_eps": 1e-3},
                6,
            ),
            calls(20, padding=1),
        ),
        # As OpenAI's first checkpoints: the config names no end token, the highest id is one, and is the padding too.
        "clip-contrast-highest": Golden(
            model(
                2,
                {"hidden_size": 12, "num_hidden_layers": 2, "num_attention_heads": 3, "intermediate_size": 16},
                {"hidden_size": 8, "num_hidden_layers": 3, "num_attention_heads": 2, "intermediate_size": 32},
                10,
            ),
            calls(highest, padding=highest),
        ),
    }


def answers(golden: Golden, model: Any, call: Call, attention: bool) -> dict[str, Tensor]:
    """The reference's outputs, by our names."""
    arguments = {name: value.double() if name == "pixel_values" else value for name, value in call.items()}
    with torch.no_grad():
        outputs = model(**arguments, output_attentions=attention)
    if golden.pool:
        return {"embedding": golden.pool(outputs["last_hidden_state"], call["attention_mask"])}
    tensors = {OUTPUTS[name]: value for name, value in outputs.items() if name in OUTPUTS}
    if attention and "vision_model_output" in outputs:
        kinds = {"image_attention": outputs["vision_model_output"], "text_attention": outputs["text_model_output"]}
        layers = {kind: tower["attentions"] for kind, tower in kinds.items()}
    else:
        layers = {"attention": outputs["attentions"]} if attention else {}
    for kind, weights in layers.items():
        tensors |= {f"{kind}.{i}": each for i, each in enumerate(weights)}
    return tensors


def write(name: str, golden: Golden) -> None:
    directory = OUT / name
    enliven(golden.model).save_pretrained(directory)
    (directory / "generation_config.json").unlink(missing_ok=True)
    if golden.modules:
        write_modules(directory, golden.model.config.hidden_size, *golden.modules)
    whole = {key: value.clone() for key, value in golden.model.state_dict().items()}
    # One checkpoint of a family has its attention weights too, of its last call.
    last = list(golden.calls)[-1]
    attention = last if name in ("bert-backbone", "gpt-backbone", "vit-backbone", "clip-contrast") else None
    model = golden.model.double()
    model.set_attn_implementation("eager")  # the one that returns them
    expected: dict[str, Tensor] = {}
    for which, call in golden.calls.items():
        kept = {INPUTS.get(key, key): value for key, value in call.items() if isinstance(value, Tensor)}
        if "images" in kept:
            kept["images"] = kept["images"].permute(0, 2, 3, 1)
        kept |= answers(golden, model, call, which == attention)
        expected |= {f"{which}.{key}": value for key, value in kept.items()}
    first = next(iter(golden.calls.values()))
    for dtype in (torch.float16, torch.bfloat16):
        model.load_state_dict({key: value.to(dtype).double() for key, value in whole.items()})
        rounded = {key: value for key, value in answers(golden, model, first, False).items() if key != "loss"}
        expected |= {f"{str(dtype).removeprefix('torch.')}.{key}": value for key, value in rounded.items()}
    stored = {
        key: value.to(torch.int32 if value.dtype == torch.long else torch.float32).contiguous()
        for key, value in expected.items()
    }
    safetensors.torch.save_file(stored, directory / "expected.safetensors")


def write_modules(directory: Path, width: int, pooling: str, normalize: bool) -> None:
    """What sentence-transformers writes beside the model."""
    kinds = [("", "Transformer"), ("1_Pooling", "Pooling"), ("2_Normalize", "Normalize")][: 3 if normalize else 2]
    modules = [
        {"idx": i, "name": str(i), "path": path, "type": f"sentence_transformers.models.{kind}"}
        for i, (path, kind) in enumerate(kinds)
    ]
    modes = ["cls_token", "mean_tokens", "max_tokens", "mean_sqrt_len_tokens", "weightedmean_tokens", "lasttoken"]
    record = {"word_embedding_dimension": width}
    record |= {f"pooling_mode_{mode}": mode == pooling for mode in modes} | {"include_prompt": True}
    (directory / "modules.json").write_text(json.dumps(modules, indent=2))
    (directory / "1_Pooling").mkdir()
    (directory / "1_Pooling" / "config.json").write_text(json.dumps(record, indent=4))


def main() -> None:
    shutil.rmtree(OUT, ignore_errors=True)
    torch.manual_seed(0)
    for make in (make_bert, make_gpt, make_vit, make_clip):
        for name, golden in make().items():
            write(name, golden)


if __name__ == "__main__":
    main()
