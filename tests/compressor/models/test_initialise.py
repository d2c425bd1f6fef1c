"""Choosing layers and refusing checkpoints that cannot serve."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest
from transformers import AutoConfig, AutoModel, BertConfig

from compressor.models import resolve
from compressor.models.initialise import chosen_layers, finetuned_model, load_tokenizer
from compressor.models.resolve import CARRIED_MODELS, checkpoint_fingerprint, resolve_model
from serving.errors import UserError
from serving.hashing import hash_file

MINILM = "sentence-transformers/all-MiniLM-L6-v2"


@pytest.mark.parametrize(
    ("layers", "total", "expected"),
    [
        (6, 12, [0, 2, 4, 7, 9, 11]),
        (3, 6, [0, 2, 5]),
        (1, 6, [0]),
        (6, 6, [0, 1, 2, 3, 4, 5]),
        ([4, 1], 6, [4, 1]),
    ],
)
def test_layers_are_evenly_spread_or_those_named(layers: int | list[int], total: int, expected: list[int]) -> None:
    """Catches a spread that leaves out the first or last layer; 6 of 12 is DistilBERT's published choice."""
    assert chosen_layers(layers, total) == expected


@pytest.mark.parametrize("layers", [7, [6], [-1], [1, 1], []])
def test_layers_that_are_not_there_are_an_error(layers: int | list[int]) -> None:
    """Catches a student that silently has other layers than asked for."""
    with pytest.raises(UserError, match=r"student\.layers"):
        chosen_layers(layers, 6)


def test_a_pretrained_encoder_is_no_finetuned_teacher(checkpoint: Callable[..., Path], tmp_path: Path) -> None:
    """Catches a teacher with a random head, which would distil noise."""
    AutoModel.from_pretrained(checkpoint()).save_pretrained(tmp_path)
    with pytest.raises(UserError, match="not a fine-tuned classifier"):
        finetuned_model(str(tmp_path))


def test_a_damaged_checkpoint_is_one_clear_line(checkpoint: Callable[..., Path], tmp_path: Path) -> None:
    """Catches a traceback, or half-loaded weights, from a file that was cut while it was copied."""
    folder = checkpoint()
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    with pytest.raises(UserError, match="could not be loaded") as caught:
        finetuned_model(str(folder))
    assert "\n" not in str(caught.value)


def test_folders_that_are_no_checkpoint_are_refused(checkpoint: Callable[..., Path], tmp_path: Path) -> None:
    """Catches pickled weights, which can run code, and folders without configuration."""
    with pytest.raises(UserError, match=r"no config\.json"):
        resolve_model(str(tmp_path))
    BertConfig().save_pretrained(tmp_path)
    (tmp_path / "pytorch_model.bin").write_bytes(b"anything")
    with pytest.raises(UserError, match=r"no \.safetensors weights"):
        resolve_model(str(tmp_path))
    with pytest.raises(UserError, match="no checkpoint folder"):
        resolve_model("./nowhere")


def test_a_checkpoint_without_a_fast_tokenizer_is_refused(checkpoint: Callable[..., Path]) -> None:
    """Catches a bundle without tokenizer.json, found only when it is served."""
    folder = checkpoint()
    for path in folder.glob("tokenizer*"):
        path.unlink()
    with pytest.raises(UserError):
        load_tokenizer(str(folder))


def test_fingerprints_follow_the_content(checkpoint: Callable[..., Path]) -> None:
    """Catches a stage that is reused although the checkpoint behind its path was replaced."""
    folder = checkpoint()
    before = checkpoint_fingerprint(str(folder))
    assert checkpoint_fingerprint(str(folder)) == before
    config = AutoConfig.from_pretrained(folder)
    config.hidden_dropout_prob = 0.3
    config.save_pretrained(folder)
    assert checkpoint_fingerprint(str(folder)) != before
    assert checkpoint_fingerprint("org/model-that-is-not-here") == "org/model-that-is-not-here"


def test_a_checkpoint_is_read_once_and_again_only_when_it_changed(
    checkpoint: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Catches weights of a hundred megabytes hashed for every stage of every cell, and a change that is overlooked."""
    folder = checkpoint()
    read: list[str] = []

    def noted(path: Path) -> str:
        read.append(path.name)
        return hash_file(path)

    monkeypatch.setattr(resolve, "hash_file", noted)
    before = checkpoint_fingerprint(str(folder))
    assert "model.safetensors" in read
    assert len(read) == len(set(read))
    read.clear()
    assert checkpoint_fingerprint(str(folder)) == before
    assert read == []
    config = folder / "config.json"
    times = config.stat().st_atime_ns, config.stat().st_mtime_ns
    config.write_text(config.read_text().replace('"gelu"', '"relu"'))  # of the same size
    os.utime(config, ns=times)
    assert checkpoint_fingerprint(str(folder)) != before
    assert read == ["config.json"]


def test_the_built_in_teacher_is_found_and_checked(monkeypatch: pytest.MonkeyPatch) -> None:
    """Catches a teacher whose weights are not the published ones."""
    assert (Path(resolve_model(MINILM)) / "model.safetensors").is_file()
    monkeypatch.setitem(CARRIED_MODELS[MINILM].files, "config.json", "0" * 64)
    with pytest.raises(UserError, match="not the published one"):
        resolve_model(MINILM)
