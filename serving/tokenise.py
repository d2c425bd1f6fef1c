"""Text to the graph's inputs: the bundle's own tokenizer.json, truncation and padding."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer

from serving.errors import BundleError, UserError
from serving.manifest import InputSpec

TOKENIZER_FILE = "tokenizer.json"
KNOWN_INPUTS = ("input_ids", "attention_mask", "token_type_ids")


def tokenise_without_threads() -> None:
    """Have texts tokenised by the threads that ask for it, in this process, unless its environment says otherwise.

    The library hands even a single text to threads of its own: two hops for a server that has a thread for it already.
    """
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")


@dataclass(frozen=True, slots=True)
class Encoding:
    """One text's (or pair's) tokens, special tokens included.

    Attributes:
        input_ids: token ids, at most `max_length` of them.
        token_type_ids: which text each token belongs to, as the tokenizer's template says.
        was_truncated: whether tokens were cut away to fit `max_length`.
    """

    input_ids: list[int]
    token_type_ids: list[int]
    was_truncated: bool

    def __len__(self) -> int:
        """The number of tokens."""
        return len(self.input_ids)


class TextEncoder:
    """Tokenises texts as the model was trained: same ids, same truncation, padding only to the batch."""

    def __init__(self, tokenizer: Tokenizer, inputs: InputSpec) -> None:
        """Take over a tokenizer; what its file says about truncation and padding is replaced.

        Raises:
            BundleError: the graph wants an input that text cannot be turned into.
        """
        if unknown := set(inputs.names) - set(KNOWN_INPUTS):
            raise BundleError(
                f"the graph wants the inputs {sorted(unknown)}, but text gives only "
                f"{', '.join(KNOWN_INPUTS)}. Export the model with these inputs only."
            )
        tokenizer.no_padding()
        tokenizer.enable_truncation(inputs.max_length, direction=inputs.truncation_side)
        self.inputs = inputs
        self._tokenizer = tokenizer
        self._zeros = np.zeros((1, inputs.max_length), dtype=np.int64)
        self._ones = np.ones((1, inputs.max_length), dtype=np.int64)
        for constant in (self._zeros, self._ones):
            constant.flags.writeable = False

    @classmethod
    def load(cls, path: Path, inputs: InputSpec) -> TextEncoder:
        """Read a `tokenizer.json`; BundleError when it is missing or not one."""
        try:
            tokenizer = Tokenizer.from_file(str(path))
        except Exception as error:  # the library raises nothing narrower
            raise BundleError(f"{path} is not a tokenizer: {error}. Export the bundle again.") from error
        return cls(tokenizer, inputs)

    def encode(self, texts: Sequence[tuple[str, ...]]) -> list[Encoding]:
        """Tokenise texts of one string, or pairs of two, each cut to `max_length` tokens.

        Raises:
            UserError: a text is empty, is not Unicode, or has not as many strings as there are text columns.
        """
        self.check(texts)
        rows = self._tokenizer.encode_batch_fast([text if len(text) == 2 else text[0] for text in texts])
        return [Encoding(row.ids, row.type_ids, bool(row.overflowing)) for row in rows]

    def check(self, texts: Sequence[tuple[str, ...]]) -> None:
        """Raise what `encode` would raise for these texts, without tokenising them."""
        columns = self.inputs.text_columns
        for index, text in enumerate(texts):
            if len(text) != len(columns):
                wanted = "one string" if len(columns) == 1 else "a pair"
                raise UserError(
                    f"text {index} has {len(text)} part(s), but this model reads {len(columns)} "
                    f"({', '.join(columns)}). Give {wanted} for each text."
                )
            for part, column in zip(text, columns, strict=True):
                if not isinstance(part, str):
                    raise UserError(f"text {index} is no string but {part!r} ({column}). Give text.")
                if not part or part.isspace():
                    raise UserError(f"text {index} is empty ({column}). Give at least one character that is no space.")
                if not (part.isascii() or _is_unicode(part)):
                    raise UserError(f"text {index} is not valid Unicode ({column}). Give it in UTF-8.")

    def encode_checked(self, text: tuple[str, ...]) -> Encoding:
        """Tokenise one text that `check` has passed, on the calling thread alone."""
        row = self._tokenizer.encode_batch_fast([text if len(text) == 2 else text[0]])[0]
        return Encoding(row.ids, row.type_ids, bool(row.overflowing))

    def batch(self, encodings: Sequence[Encoding]) -> dict[str, NDArray[np.int64]]:
        """The graph's inputs, int64 [batch, tokens], padded to the longest row."""
        if len(encodings) == 1:
            return self._alone(encodings[0])
        shape = (len(encodings), max(map(len, encodings), default=0))
        arrays = {
            "input_ids": np.full(shape, self.inputs.pad_id, dtype=np.int64),
            "attention_mask": np.zeros(shape, dtype=np.int64),
            "token_type_ids": np.full(shape, self.inputs.pad_token_type_id, dtype=np.int64),
        }
        for row, encoding in enumerate(encodings):
            arrays["input_ids"][row, : len(encoding)] = encoding.input_ids
            arrays["attention_mask"][row, : len(encoding)] = 1
            arrays["token_type_ids"][row, : len(encoding)] = encoding.token_type_ids
        return {name: arrays[name] for name in self.inputs.names}

    def _alone(self, encoding: Encoding) -> dict[str, NDArray[np.int64]]:
        """The graph's inputs for one text, which needs no padding."""
        length = len(encoding.input_ids)
        arrays = {}
        for name in self.inputs.names:
            if name == "input_ids":
                arrays[name] = np.array([encoding.input_ids], dtype=np.int64)
            elif name == "attention_mask":
                arrays[name] = self._ones[:, :length]
            elif any(encoding.token_type_ids):
                arrays[name] = np.array([encoding.token_type_ids], dtype=np.int64)
            else:
                arrays[name] = self._zeros[:, :length]
        return arrays


def _is_unicode(text: str) -> bool:
    """Whether a string can be written as UTF-8: undecodable bytes leave lone surrogates behind."""
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True
