"""Several documents in one sequence (packing): which tokens see each other, and where each stands in its own."""

from typing import Any

from keras import ops


def same_document(document_ids: Any) -> Any:
    """int32 (batch, tokens), a number for each document, to float32 (batch, tokens, tokens): 1 where two tokens are of
    one document, 0 elsewhere."""
    return ops.cast(ops.equal(ops.expand_dims(document_ids, 2), ops.expand_dims(document_ids, 1)), "float32")


def positions_in_documents(document_ids: Any) -> Any:
    """int32 (batch, tokens), a number for each document, to int32 (batch, tokens): the place of each token in its own
    document, from 0."""
    place = ops.arange(ops.shape(document_ids)[1], dtype="int32")
    is_earlier = ops.cast(ops.expand_dims(place, 0) < ops.expand_dims(place, 1), "float32")
    return ops.cast(ops.sum(same_document(document_ids) * is_earlier, axis=-1), "int32")
