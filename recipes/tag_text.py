"""tag-text: train BERT to find named entities, or to give words other labels (Devlin et al. 2019, section 5.3).

On a laptop (two cores, minutes), from a model that was pretrained before; on WNUT-17, whose entities are all new,
expect an F1 of 0.22 on the development data (docs/results.md):

    zoo train tag-text --data train.conll --validation-data dev.conll --from pretrained --out run

On a GPU: `--from hf:google-bert/bert-base-cased --precision bfloat16 --learning-rate 5e-5 --epochs 4`.
"""

import dataclasses
from pathlib import Path
from typing import Any

from recipes.data.sentences import TagColumns
from recipes.data.tables import Table
from recipes.fine_tuning import FineTuning, Tuning, begin, fine_tune, require_wordpiece, share_out


@dataclasses.dataclass(frozen=True)
class TagText(FineTuning):
    """Train a tagger of words: on CoNLL files (.conll, .bio, .iob, .iob2), or on JSON Lines, JSON or Parquet with lists
    of tokens and of tags, or with texts and lists of entities ({"start", "end", "label"}, in characters).

    Tags are B-, I- and O; IOB1, BIOES and BILOU are read as well. Where no tag has a prefix, neighbours with the same
    tag are one entity, or, where every word has a tag, each is one by itself. Words that the model does not reach
    (--max-length) count as O.

    Leaves in --out: summary.md, tagged.md, loss.png, recipe.json, metrics.jsonl, TensorBoard's logs, checkpoints/, and
    model/, the model with the highest F1 of entities on held-out sentences, which zoo predict, eval and export take. A
    run that was stopped, by whatever, goes on when the same command is given again.
    """

    data: Path
    """Table with a sentence and its tags or entities in each row."""
    validation_data: Path | None = None
    """Held-out sentences; without them a part of the data is held out."""
    validation_fraction: float = 0.1
    """Part of the sentences to hold out."""
    columns: TagColumns = dataclasses.field(default_factory=TagColumns)


def train_tagger(settings: TagText) -> dict[str, Any]:
    """Run the recipe: rows to pieces of words with labels, these to groups of like length, and the engine trains."""
    from recipes.data import tagged
    from recipes.data.sentences import find_layout
    from recipes.data.vocabulary import tokenizer_for
    from recipes.measures import Tagging

    beginning, table = begin(settings, "tag-text", "tag")
    require_wordpiece(beginning, "tag-text")
    layout = find_layout(table, settings.columns)
    tokenizer = tokenizer_for(
        beginning.tokenizer, table, layout[1:], lambda table, problems: tagged.read_texts(table, layout, problems)
    )
    data = tagged.read_tagged(table, layout, tokenizer)

    def read(other: Table) -> tagged.TaggedTexts:
        return tagged.read_tagged(other, find_layout(other, settings.columns), tokenizer, data.types)

    train_data, held_out = share_out(settings, data, tagged.split, read)
    source = tagged.TagSource(train_data, tokenizer, beginning.length)
    tagged.tell(train_data, held_out, source)
    facts = {
        "train_sentences": len(train_data),
        "validation_sentences": len(held_out),
        "types": ", ".join(data.types),
        "data": f"{data.examples.fingerprint} {held_out.examples.fingerprint}",
    }
    tuning = Tuning(
        "tag-text",
        "sentences",
        source,
        Tagging(held_out, tokenizer, beginning.length, settings.training.batch_size),
        losses=("logits",),
        judged_by="entity_f1",
        facts=facts,
        labels=data.labels,
    )
    return fine_tune(
        settings, tuning, lambda dtype: beginning.make("tag", dtype, tokenizer, num_classes=len(data.labels))
    )
