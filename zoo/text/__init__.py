"""Tokenizers: byte-level BPE, characters, WordPiece and CLIP's, read from the standard files or trained from text."""

from zoo.text.specification import END_OF_TEXT
from zoo.text.stream import cut_pieces, encode_stream, find_safe_cut
from zoo.text.tokenizer import Tokenizer
from zoo.text.training import train_bpe, train_characters, train_clip, train_wordpiece

__all__ = [
    "END_OF_TEXT",
    "Tokenizer",
    "cut_pieces",
    "encode_stream",
    "find_safe_cut",
    "train_bpe",
    "train_characters",
    "train_clip",
    "train_wordpiece",
]
