"""Needs TensorFlow, once a file is read: TFRecord files of `tf.train.Example` as rows.

TensorFlow's runtime is not started: a process that reads its data first can still join other workers.
"""

import inspect
import re
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from recipes.data.lines import Row
from recipes.data.problems import Problems
from zoo.errors import UserError

# As data.tfrecord, data.tfrecord-00000-of-00010 or data.tfrecord.gz.
_NAME = re.compile(r"\.tfrecords?([-._]\d+([-_]of[-_]\d+)?)?(\.gz)?$", re.IGNORECASE)
_SHARD = re.compile(r"-\d+-of-\d+$")
_HEADER, _FOOTER = 12, 4  # bytes around a record: its length and that one's checksum; its own checksum


def is_record_file(path: Path, in_folder: bool = False) -> bool:
    """Whether `path` is a TFRecord file by its name; in a folder also as train-00000-of-00010, without a suffix."""
    return bool(_NAME.search(path.name) or (in_folder and _SHARD.search(path.name)))


def read_records(path: Path, problems: Problems) -> Iterator[Row]:
    """Rows of a TFRecord file, numbered from 1: a value for each feature of a `tf.train.Example`.

    Integers are `int`, floating-point numbers `float`. Bytes are `str` where they are UTF-8 without NUL, and `bytes`
    otherwise; an image in any of the formats that are read has a NUL, or is no UTF-8. Several values are a list, in
    which all are `str` or all are `bytes`. A feature without values is left out.

    Raises:
        UserError: a record is corrupt, the file ends within one, or it is compressed.
        OSError: the file cannot be read.
    """
    number = 0
    for number, record in enumerate(_read_whole(path), 1):
        problems.see(path, number)
        row = _to_row(record)
        if isinstance(row, str):
            problems.add(problems.where, row)
        else:
            yield row


def _read_whole(path: Path) -> Iterator[bytes]:
    """The records as they stand, each with a checksum that is right.

    Where they end is looked at beforehand: TensorFlow's reader takes a file that ends within the length of a record for
    whole, and one that names a length beyond all memory ends the process.
    """
    with path.open("rb") as file:
        size = file.seek(0, 2)
        if not size:
            return
        import tensorflow as tf

        # It warns that it is deprecated in favour of datasets, which start the runtime; below that it is as it was.
        records = inspect.unwrap(tf.compat.v1.io.tf_record_iterator)(str(path))
        number = end = 0
        while end < size:
            number += 1
            file.seek(end)
            head = file.read(8)
            end += _HEADER + _FOOTER + (struct.unpack("<Q", head)[0] if len(head) == 8 else 0)
            if end > size:
                raise _damaged(path, number, "the file ends within it")
            try:
                record = next(records)
            except (tf.errors.OpError, StopIteration):
                raise _damaged(path, number, "its checksum is wrong") from None
            yield record


def _damaged(path: Path, number: int, fault: str) -> UserError:
    if number > 1:
        return UserError(f"{path}: record {number:,} is cut off or corrupt: {fault}")
    with path.open("rb") as file:
        if file.read(2) == b"\x1f\x8b":
            return UserError(f"{path} is compressed: decompress it first, for instance with `gunzip`")
    return UserError(f"{path}: not a TFRecord file, or its first record is cut off or corrupt: {fault}")


def _to_row(record: bytes) -> Row | str:
    """The features of an example, or why a record is none."""
    import tensorflow as tf
    from google.protobuf.message import DecodeError

    try:
        features = tf.train.Example.FromString(record).features.feature
    except DecodeError:
        return "not a tf.train.Example"
    if not features:
        return "without features"  # as many another message would be read
    values = {name: _to_value(feature) for name, feature in features.items()}
    return {name: values[name] for name in sorted(values) if values[name] is not None}


def _to_value(feature: Any) -> Any:
    kind = feature.WhichOneof("kind")
    values: list[Any] = list(getattr(feature, kind).value) if kind else []
    if kind == "bytes_list":
        values = _to_texts(values)
    if not values:
        return None
    return values[0] if len(values) == 1 else values


def _to_texts(values: list[bytes]) -> list[Any]:
    if any(b"\0" in value for value in values):
        return values
    try:
        return [value.decode() for value in values]
    except UnicodeDecodeError:
        return values
