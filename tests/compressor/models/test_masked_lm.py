"""A masked language model is adapted to texts: it learns, stays tied, is saved whole, and disturbs nothing else."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoModel, AutoModelForMaskedLM, AutoTokenizer, GPT2Config, GPT2LMHeadModel

from compressor.models.masked_lm import (
    Adaptation,
    adapt_masked_lm,
    epochs_for,
    load_masked_lm,
    longest,
    num_steps,
    rate_at,
)
from serving.errors import UserError

ARCHITECTURES = ["bert", "distilbert", "roberta", "electra", "mpnet", "deberta-v2"]
MASK = "thanks"  # the toy vocabulary has no mask token: one of its words takes the part
TEXTS = [("money refund card money refund card",), ("late order arrived late order arrived",)] * 40
FAST = Adaptation(epochs=2, max_length=16, seed=0)


def with_mask_token(folder: Path) -> Path:
    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenizer.add_special_tokens({"mask_token": MASK})
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture
def encoder(checkpoint: Callable[..., Path]) -> Callable[..., Path]:
    """A factory: architecture -> a checkpoint with a mask token and no masked-LM head."""

    def make(architecture: str = "bert") -> Path:
        return with_mask_token(checkpoint(architecture))

    return make


@pytest.fixture(scope="module")
def adapted(checkpoint: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, list[int]]:
    """A checkpoint, what became of it in some hundred steps, and the progress that was told."""
    before, after = with_mask_token(checkpoint("bert")), tmp_path_factory.mktemp("adapted")
    told: list[int] = []
    adapt_masked_lm(str(before), TEXTS * 8, Adaptation(4, 16, 0), folder=after, advance=told.append)
    return before, after, told


def weights(folder: Path) -> dict[str, torch.Tensor]:
    state: dict[str, torch.Tensor] = AutoModelForMaskedLM.from_pretrained(folder).state_dict()
    return state


def test_adapting_learns_the_words_of_the_texts(adapted: tuple[Path, Path, list[int]]) -> None:
    """Catches a training that updates nothing, or that guesses what it is shown."""
    _before, after, told = adapted
    facts = json.loads((after / "masked_lm.json").read_text())
    assert set(facts) == {"texts", "epochs", "first_loss", "last_loss", "seconds"}
    assert (facts["texts"], facts["epochs"]) == (640, 4)
    assert facts["first_loss"] > 2.5
    assert facts["last_loss"] < facts["first_loss"] - 0.5
    assert facts["seconds"] > 0
    assert told == list(range(1, num_steps(640, 4) + 1))


def test_what_was_adapted_is_a_trained_masked_lm_with_its_tokenizer(adapted: tuple[Path, Path, list[int]]) -> None:
    """Catches a head that is left behind, or a tokenizer without its mask token."""
    network, tokenizer = load_masked_lm(str(adapted[1]), must_be_trained=True)
    assert tokenizer.mask_token == MASK
    assert not network.training
    shown = tokenizer(f"money {MASK} card", return_tensors="pt")["input_ids"]
    with torch.inference_mode():
        logits = network(input_ids=shown).logits[0, 2]
    known = [tokenizer.convert_tokens_to_ids(word) for word in ("money", "refund", "card", "late", "order", "arrived")]
    assert int(logits.argmax()) in known


def test_all_parameters_train_and_the_output_stays_tied(adapted: tuple[Path, Path, list[int]], tmp_path: Path) -> None:
    """Catches a frozen encoder, and an output layer that drifts from the embeddings and doubles the file."""
    before, after, _told = adapted
    network, _tokenizer = load_masked_lm(str(after), must_be_trained=True)
    assert network.get_output_embeddings().weight is network.get_input_embeddings().weight
    start = load_masked_lm(str(before), must_be_trained=False)[0].state_dict()
    encoder = {name: tensor for name, tensor in network.state_dict().items() if name.startswith("bert.")}
    assert len(encoder) > 40
    same = [name for name, tensor in encoder.items() if tensor.is_floating_point() and tensor.equal(start[name])]
    assert same == []


def test_the_same_seed_gives_the_same_weights_and_leaves_the_global_state(
    encoder: Callable[..., Path], tmp_path: Path
) -> None:
    """Catches an adaptation that moves the random state of the training behind it, or reads it."""
    folder = str(encoder())
    before = str(np.random.get_state(legacy=False)), random.getstate()
    for name, seed, around in (("one", 1, 5), ("same", 1, 6), ("other", 2, 5)):
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(around)
            state = torch.random.get_rng_state()
            adapt_masked_lm(folder, TEXTS, Adaptation(1, 16, seed), folder=tmp_path / name)
            load_masked_lm(folder, must_be_trained=False)
            assert torch.equal(torch.random.get_rng_state(), state)
    assert (str(np.random.get_state(legacy=False)), random.getstate()) == before
    one, same, other = (weights(tmp_path / name) for name in ("one", "same", "other"))
    assert all(tensor.equal(same[name]) for name, tensor in one.items())
    assert any(not tensor.equal(other[name]) for name, tensor in one.items())


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_every_architecture_of_the_house_can_be_adapted(
    architecture: str, encoder: Callable[..., Path], tmp_path: Path
) -> None:
    """Catches token types given to models that know none, and heads that are called otherwise."""
    folder = str(encoder(architecture))
    pairs = [("the card is late", "help"), ("money", "my order never arrived")]
    adapt_masked_lm(folder, pairs, Adaptation(1, 16, 0), folder=tmp_path)
    network, _tokenizer = load_masked_lm(str(tmp_path), must_be_trained=True)
    assert network.config.model_type == architecture


def test_a_random_head_is_refused_where_a_trained_one_is_asked_for(
    encoder: Callable[..., Path], tmp_path: Path
) -> None:
    """Catches refills by chance: an encoder alone loads without an error, with a head of noise."""
    folder = encoder()
    with pytest.raises(UserError, match="mlm: adapt") as caught:
        load_masked_lm(str(folder), must_be_trained=True)
    assert "\n" not in str(caught.value)
    AutoModel.from_pretrained(folder).save_pretrained(tmp_path)
    AutoTokenizer.from_pretrained(folder).save_pretrained(tmp_path)
    with pytest.raises(UserError, match="no trained masked-LM head"):
        load_masked_lm(str(tmp_path), must_be_trained=True)


def test_a_tokenizer_without_a_mask_token_is_refused(
    checkpoint: Callable[..., Path], capfd: pytest.CaptureFixture[str]
) -> None:
    """Catches 'None' as the id of a mask."""
    with pytest.raises(UserError, match="no mask token"):
        load_masked_lm(str(checkpoint()), must_be_trained=False)
    assert "not set" not in capfd.readouterr().err


def test_an_architecture_without_a_masked_lm_is_refused(encoder: Callable[..., Path], tmp_path: Path) -> None:
    """Catches a list of a hundred classes where one line is due."""
    GPT2LMHeadModel(GPT2Config(vocab_size=20, n_embd=8, n_layer=1, n_head=1)).save_pretrained(tmp_path)
    AutoTokenizer.from_pretrained(encoder()).save_pretrained(tmp_path)
    with pytest.raises(UserError, match="gpt2 model, of which there is no masked language model") as caught:
        load_masked_lm(str(tmp_path), must_be_trained=False)
    assert "\n" not in str(caught.value)


def test_damaged_weights_are_one_clear_line(encoder: Callable[..., Path]) -> None:
    """Catches a traceback from a file that was cut while it was copied."""
    folder = encoder()
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(UserError, match="could not be loaded as a masked language model") as caught:
        load_masked_lm(str(folder), must_be_trained=False)
    assert "\n" not in str(caught.value)


def test_a_tokenizer_that_knows_more_than_the_model_is_refused(checkpoint: Callable[..., Path]) -> None:
    """Catches an index error in the embeddings: the mask token was added to the tokenizer alone."""
    folder = checkpoint()
    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenizer.add_special_tokens({"mask_token": "[MASK]"})
    tokenizer.save_pretrained(folder)
    with pytest.raises(UserError, match="21 tokens, but the model knows 20"):
        load_masked_lm(str(folder), must_be_trained=False)


def test_texts_without_a_known_token_are_refused(encoder: Callable[..., Path], tmp_path: Path) -> None:
    """Catches NaN weights that are saved as a result."""
    with pytest.raises(UserError, match="none of the 2 training texts"):
        adapt_masked_lm(str(encoder()), [("😀",), ("",)], FAST, folder=tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_no_more_is_read_than_the_model_has_positions_for(encoder: Callable[..., Path], tmp_path: Path) -> None:
    """Catches an index error where the recipe's length suits the student alone."""
    folder = str(encoder("roberta"))
    assert longest(load_masked_lm(folder, must_be_trained=False)[0], 1000) == 129
    assert longest(load_masked_lm(folder, must_be_trained=False)[0], 16) == 16
    adapt_masked_lm(folder, [("card " * 500,)], Adaptation(1, 1000, 0), folder=tmp_path)


def test_the_learning_rate_rises_over_a_tenth_and_falls_to_nothing() -> None:
    """Catches a first step at full rate, a peak above the rate, and a last step that is wasted at 0."""
    rates = [rate_at(step, 100) for step in range(100)]
    assert max(rates) == 1.0
    assert rates[:10] == pytest.approx([(step + 1) / 10 for step in range(10)])
    assert rates[10:] == sorted(rates[10:], reverse=True)
    assert rates[55] == pytest.approx(0.5)
    assert 0.0 < rates[-1] < 0.02
    assert rate_at(0, 1) == 1.0
    assert [epochs_for(500, texts) for texts in (0, 1, 16, 1600, 8000, 20_000)] == [1, 500, 500, 5, 1, 1]
    assert [num_steps(0, 3), num_steps(1, 3), num_steps(32, 3), num_steps(33, 3)] == [0, 3, 6, 9]
