"""One round of mask and refill: some words of a text give way to words that a masked language model finds likely.

The method is our reading of Feng et al. (2021), arXiv:2101.08106 (L2A); how a refill is drawn is ours.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from compressor.data.order import batches_by_length
from compressor.distillation.augmentation.masking import draw_mask, maskable_tokens, read_tokens
from compressor.models.masked_lm import longest
from compressor.models.masked_places import masked_logits, padded_batch

_NEVER = -1
_CONTINUES, _IS_WORDLESS = 1, 2  # a kind is their sum: of a word's start with letters or digits it is 0
_CONTINUING, _STARTING = "##", ("Ġ", "▁")
_RESERVED = re.compile(r"[\[<]unused_?\d+[\]>]|madeupword\d+|<0x[0-9A-F]{2}>")
_UNDECODED = "\ufffd"


@dataclass(frozen=True)
class Pieces:
    """A vocabulary as refills are drawn from it.

    Attributes:
        kinds: int64 [vocabulary]; a piece gives way to pieces of its own kind. -1: is never drawn nor replaced.
        written: what each piece adds to a text, without white space.
    """

    kinds: np.ndarray
    written: tuple[str, ...]


def read_pieces(tokenizer: PreTrainedTokenizerBase, size: int) -> Pieces:
    """Tell the pieces of a vocabulary by kind: starts or continues a word, has letters or digits or has none.

    Never drawn are special and reserved tokens, parts of a character, and what is white space or holds some.

    Args:
        tokenizer: a fast one.
        size: tokens that the model knows, at least those of the tokenizer.
    """
    decoder = tokenizer.backend_tokenizer.decoder
    vocabulary: dict[str, int] = tokenizer.get_vocab()
    marker = _word_marker(vocabulary)
    special = set(tokenizer.all_special_ids) | set(tokenizer.added_tokens_decoder)
    kinds = np.full(size, _NEVER, dtype=np.int64)
    written = [""] * size
    for token, place in vocabulary.items():
        text = (decoder.decode([token]) if decoder is not None else token).strip()
        text = text.removeprefix(_CONTINUING) if marker == _CONTINUING else text
        if place in special or _RESERVED.fullmatch(token) or _UNDECODED in text or text.split() != [text]:
            continue
        written[place] = text
        continues = token.startswith(marker) == (marker == _CONTINUING) if marker else False
        kinds[place] = _CONTINUES * continues + _IS_WORDLESS * (not any(letter.isalnum() for letter in text))
    return Pieces(kinds, tuple(written))


def _word_marker(vocabulary: Mapping[str, int]) -> str:
    """The mark by which a vocabulary tells starts of words from continuations: its most frequent one, or ''."""
    counts = {
        marker: sum(token.startswith(marker) and token != marker for token in vocabulary)
        for marker in (_CONTINUING, *_STARTING)
    }
    marker = max(counts, key=lambda name: counts[name])
    return marker if counts[marker] else ""


def sample_top_k(logits: Tensor, uniforms: Tensor, top_k: int) -> Tensor:
    """One token per row, from the renormalised probabilities of the likeliest ones.

    Tokens are lined up by id, not by probability, so that rounding cannot swap two equally likely ones.

    Args:
        logits: float32 [rows, vocabulary]; -inf is never drawn, and each row has something else.
        uniforms: float64 [rows] in [0, 1), the lots.
        top_k: at least 1.

    Returns:
        int64 [rows].
    """
    values, ids = logits.topk(min(top_k, logits.shape[1]), dim=1)
    ids, order = ids.sort(dim=1)
    reached = values.gather(1, order).double().softmax(dim=1).cumsum(dim=1)
    lots = uniforms[:, None] * reached[:, -1:]
    places = (reached <= lots).sum(dim=1, keepdim=True).clamp(max=ids.shape[1] - 1)
    return ids.gather(1, places)[:, 0]


def replace_spans(text: str, spans: np.ndarray, written: Sequence[str]) -> str:
    """A text with some of its characters replaced.

    Args:
        text: the old text.
        spans: int64 [places, 2], ascending, without overlap: first character and the one behind the last.
        written: what to write there, one per place.
    """
    parts, done = [], 0
    for (start, end), new in zip(spans.tolist(), written, strict=True):
        parts += [text[done:start], new]
        done = end
    return "".join([*parts, text[done:]])


@dataclass(frozen=True)
class _Row:
    """One text with its masked tokens.

    Attributes:
        columns: `input_ids` and `token_type_ids` before masking, int64 [tokens] each.
        is_masked: bool [tokens].
        old_ids: int64 [masked].
        spans: of the masked tokens, int64 [masked, 2].
        lots: float64 [masked], in [0, 1).
    """

    columns: dict[str, np.ndarray]
    is_masked: np.ndarray
    old_ids: np.ndarray
    spans: np.ndarray
    lots: np.ndarray


class Refiller:
    """A masked language model that rewrites some words of texts."""

    def __init__(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        *,
        rate: float,
        top_k: int,
        max_length: int,
    ) -> None:
        """Read the vocabulary once.

        Args:
            model: in eval mode, see `load_masked_lm`.
            tokenizer: its own.
            rate: rho, share of a side's tokens that are masked in a round, in [0, 1].
            top_k: a refill is drawn from so many likeliest pieces of the masked one's kind.
            max_length: tokens that are read of a text or pair; what lies beyond stays as it is.
        """
        self.model = model
        self.tokenizer = tokenizer
        self.rate = rate
        self.top_k = top_k
        self.max_length = longest(model, max_length)
        self._pieces = read_pieces(tokenizer, int(model.get_input_embeddings().weight.shape[0]))
        self._is_fixed = self._pieces.kinds == _NEVER

    def round(
        self, texts: Sequence[tuple[str, ...]], sides: np.ndarray, generators: Sequence[np.random.Generator]
    ) -> list[tuple[str, ...]]:
        """Mask and refill each text once, all its masked words at the same time.

        Only the characters of masked tokens change, and none becomes or stops being white space, so a text keeps its
        number of words. Which texts run together changes nothing but the rounding of the model's probabilities.

        Args:
            texts: texts, or pairs.
            sides: which text of a row is changed, int64 [rows]; 0 where there is one.
            generators: one per row; those of changed rows are moved.

        Returns:
            The new texts, in the order of the old ones.
        """
        if self.rate == 0.0 or not len(texts):
            return list(texts)
        rows = [
            self._mask(encoding, text, side, generator)
            for encoding, text, side, generator in zip(
                self._encode(texts), texts, sides.tolist(), generators, strict=True
            )
        ]
        new_ids = self._refill(rows)
        return [
            (*text[:side], self._written(text[side], row, ids), *text[side + 1 :])
            for text, side, row, ids in zip(texts, sides.tolist(), rows, new_ids, strict=True)
        ]

    def _encode(self, texts: Sequence[tuple[str, ...]]) -> Sequence[Any]:
        columns = [list(column) for column in zip(*texts, strict=True)]
        encoded = self.tokenizer(*columns, truncation=True, max_length=self.max_length, verbose=False)
        encodings: Sequence[Any] = encoded.encodings
        return encodings

    def _mask(self, encoding: Any, text: tuple[str, ...], side: int, generator: np.random.Generator) -> _Row:
        tokens = read_tokens(encoding, text)
        is_masked = draw_mask(maskable_tokens(tokens, side, self._is_fixed), tokens.words, self.rate, generator)
        columns = {"input_ids": tokens.ids, "token_type_ids": np.array(encoding.type_ids, dtype=np.int64)}
        lots = generator.random(int(is_masked.sum()))
        return _Row(columns, is_masked, tokens.ids[is_masked], tokens.spans[is_masked], lots)

    def _refill(self, rows: Sequence[_Row]) -> list[np.ndarray]:
        """New ids of the masked tokens, int64 [masked] per row."""
        new_ids = [row.old_ids for row in rows]
        with torch.inference_mode():
            for batch in _batches(rows):
                drawn = self._draw([rows[place] for place in batch])
                for place, ids in zip(batch, drawn, strict=True):
                    new_ids[place] = ids
        return new_ids

    def _draw(self, rows: Sequence[_Row]) -> list[np.ndarray]:
        inputs = padded_batch(self.model, [row.columns for row in rows], int(self.tokenizer.pad_token_id))
        is_masked = torch.zeros_like(inputs["input_ids"], dtype=torch.bool)
        for line, row in zip(is_masked, rows, strict=True):
            line[: len(row.is_masked)] = torch.from_numpy(row.is_masked)
        kinds = torch.from_numpy(self._pieces.kinds)
        wanted = kinds[inputs["input_ids"][is_masked]]
        inputs["input_ids"][is_masked] = int(self.tokenizer.mask_token_id)
        logits = masked_logits(self.model, inputs, is_masked).masked_fill_(kinds != wanted[:, None], -torch.inf)
        lots = torch.from_numpy(np.concatenate([row.lots for row in rows]))
        ids = sample_top_k(logits, lots, self.top_k).numpy()
        return np.split(ids, np.cumsum([len(row.lots) for row in rows])[:-1])

    def _written(self, text: str, row: _Row, ids: np.ndarray) -> str:
        """The text with its masked tokens replaced; a piece that came back keeps its old characters and their case."""
        is_new = ids != row.old_ids
        return replace_spans(text, row.spans[is_new], [self._pieces.written[token] for token in ids[is_new].tolist()])


def _batches(rows: Sequence[_Row]) -> Iterator[list[int]]:
    """Places of the rows that have masked tokens, those of like length together."""
    masked = np.array([place for place, row in enumerate(rows) if len(row.lots)], dtype=np.int64)
    lengths = np.array([len(row.is_masked) for row in rows], dtype=np.int64)
    for batch in batches_by_length(lengths[masked]):
        yield masked[batch].tolist()
