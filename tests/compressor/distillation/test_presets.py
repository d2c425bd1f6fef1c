"""Names and knobs: what is understood, what is refused, and how a choice is called."""

from __future__ import annotations

import dataclasses
import subprocess
import sys

import pytest

from compressor.distillation.presets import (
    PRESETS,
    SwaKnobs,
    file_label_of,
    knobs_of,
    label_of,
    methods_at,
    needs_teacher,
    parse_method,
    parse_method_text,
)


def test_gold_labels_are_understood_where_no_supervision_is_named() -> None:
    """Catches `swa` and `[none, swa]` as two methods, and a choice that depends on the order it was written in."""
    assert parse_method("swa") == parse_method(["none", "swa"]) == {"swa": {}}
    assert parse_method("none") == {"none": {}}
    assert list(parse_method([{"swa": {"every": 2}}, "kd"])) == ["kd", "swa"]
    assert parse_method({"kd": {"temperature": 4}, "sda": None}) == {"kd": {"temperature": 4.0}, "sda": {}}


@pytest.mark.parametrize(
    ("text", "methods", "label"),
    [
        ("kd", {"kd": {}}, "kd"),
        ("swa+kd", {"kd": {}, "swa": {}}, "kd+swa"),
        ("sda:k=all:weight=1.5", {"sda": {"k": "all", "weight": 1.5}}, "sda(weight=1.5,k=all)"),
        ("kd+swa:every=1", {"kd": {}, "swa": {"every": 1}}, "kd+swa(every=1)"),
        ("swa:every=null", {"swa": {"every": None}}, "swa"),
        ("kd:alpha=7e-1:temperature=2", {"kd": {"alpha": 0.7, "temperature": 2.0}}, "kd"),
        ("ema:decay=1e-3", {"ema": {"decay": 0.001}}, "ema(decay=0.001)"),
        ("sdv:k=5:snapshots=cpu", {"sdv": {"k": 5, "snapshots": "cpu"}}, "sdv(k=5,snapshots=cpu)"),
        ("avg:of=[a/b, c]", {"avg": {"of": ["a/b", "c"]}}, "avg(of=[a/b,c])"),
        ("none", {"none": {}}, "none"),
        ("bam", {"bam": {}}, "bam"),
        ("bam:annealing=off+swa", {"bam": {"annealing": "off"}, "swa": {}}, "bam(annealing=off)+swa"),
        (
            "bam:annealing=constant:constant=1",
            {"bam": {"annealing": "constant", "constant": 1.0}},
            "bam(annealing=constant,constant=1)",
        ),
    ],
)
def test_methods_written_on_the_command_line(text: str, methods: dict[str, object], label: str) -> None:
    """Catches a knob read as a text, and two rows of a comparison under one label."""
    found = parse_method_text(text)
    assert found == parse_method(text) == methods
    assert label_of(found) == label
    assert set(file_label_of(found)) <= set("abcdefghijklmnopqrstuvwxyz0123456789.+=_-")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("kdd", f"no method 'kdd'. Choose one of: {', '.join(PRESETS)}. Did you mean kd?"),
        ("swa:evry=2", "method 'swa' has no knob 'evry'. Choose one of: start, every, rate, keep. Did you mean every?"),
        ("sda:k=2.5", "sda.k is 2.5, expected a whole number or 'all'"),
        ("sda:k=0", "sda.k is 0, expected a whole number of at least 1, or all"),
        ("sda:weight=-1", "sda.weight is -1.0, expected a number of at least 0"),
        ("sdv:weight=-0.5", "sdv.weight is -0.5, expected a number of at least 0"),
        ("sda:weight=.inf", "sda.weight is inf"),
        ("sda:weight=true", "sda.weight is True, expected a number"),
        ("sda:ema=1", "sda.ema is 1.0, expected a number above 0 and below 1"),
        ("sda:ema=0.9:k=3", "sda.ema stands beside sda.k 3"),
        ("sda:teacher=current:k=all", "sda.teacher 'current' averages nothing"),
        ("sda:teacher=old", "sda.teacher is 'old', expected 'past' or 'current'"),
        ("sdv:k=all", "sdv.k is all, but the mean of logits needs every past student"),
        ("sdv:k=0", "sdv.k is 0"),
        ("sda+sdv", "'sda' and 'sdv' cannot be combined: both make the student its own teacher"),
        ("swa+ema", "'swa' and 'ema' cannot be combined: both say which weights of a run are kept"),
        ("avg+vote", "'avg' and 'vote' cannot be combined"),
        ("none+kd", "'none' and 'kd' cannot be combined"),
        ("swa:start=1", "swa.start is 1.0: averaging would begin after the last step"),
        ("swa:start=-0.1", "swa.start is -0.1"),
        ("swa:every=0", "swa.every is 0"),
        ("swa:every=soon", "swa.every is 'soon', expected a whole number or nothing (null)"),
        ("swa:rate=0", "swa.rate is 0.0"),
        ("swa:rate=1.1", "swa.rate is 1.1"),
        ("swa:keep=best", "swa.keep is 'best', expected 'average', 'last' or 'selected'"),
        ("ema:decay=1", "ema.decay is 1.0"),
        ("avg:runs=1", "avg.runs is 1"),
        ("avg:of=[a]", "avg.of is ['a'], expected at least two folders"),
        ("vote:runs=1", "vote.runs is 1"),
        ("vote:of=[a,b]", "method 'vote' has no knob 'of'. Choose one of: runs."),
        ("sda(k=all)", "got 'sda(k=all)', expected a method such as kd, sda:k=all:weight=1.5"),
        ("avg:of=a", "avg.of is 'a', expected a list of texts or nothing (null)"),
        ("kd:alpha=.nan", "kd.alpha is nan"),
        ("bam+kd", "'bam' and 'kd' cannot be combined: both say what the labels and the teacher weigh"),
        ("none+bam", "cannot be combined"),
        ("bam:annealing=cosine", "bam.annealing is 'cosine', expected 'linear', 'constant' or 'off'"),
        ("bam:annealing=on", "bam.annealing is True"),
        ("bam:constant=0.5", "bam.constant is 0.5 beside bam.annealing 'linear', which does not read it"),
        ("bam:annealing=off:constant=0", "bam.constant is 0 beside bam.annealing 'off'"),
        ("bam:annealing=constant:constant=1.5", "bam.constant is 1.5, expected a number in [0, 1]"),
        ("bam:annealing=constant:constant=.nan", "bam.constant is nan, expected a number in [0, 1]"),
        ("kd+kd", "method 'kd' stands twice"),
        ("kd:", "got 'kd:', expected a method such as"),
        ("", "got '', expected a method such as"),
        ("kd:alpha", "got 'kd:alpha', expected a method such as"),
    ],
)
def test_wrong_use_gets_one_clear_line(text: str, said: str) -> None:
    """Catches a knob out of range, or an impossible combination, that is found out during training or never."""
    with pytest.raises(ValueError) as caught:
        parse_method_text(text)
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


def test_every_method_has_a_place_and_described_knobs() -> None:
    """Catches a method that no place runs, and a knob that --help cannot explain."""
    assert {preset.place for preset in PRESETS.values()} == {"texts", "targets", "weights", "runs"}
    for name, preset in PRESETS.items():
        for knob in dataclasses.fields(preset.knobs):
            assert knob.metadata["help"], f"{name}.{knob.name}"
        for other, reason in preset.excludes.items():
            assert PRESETS[other].excludes[name] == reason


def test_methods_are_taken_apart_by_place() -> None:
    """Catches a member of an average that is itself asked to average runs."""
    methods = parse_method_text("kd+sda+swa:every=3+avg")
    assert list(methods_at(methods, "targets")) == ["kd", "sda"]
    assert list(methods_at(methods, "weights")) == ["swa"]
    assert list(methods_at(methods, "runs")) == ["avg"]
    assert knobs_of(methods, "swa") == SwaKnobs(every=3)
    assert needs_teacher(methods)
    assert not needs_teacher(parse_method_text("sda+swa"))


def test_texts_that_a_teacher_answers_are_learned_by_kd() -> None:
    """Catches added texts without label and without a loss that reads their targets: they would be no texts at all."""
    assert parse_method_text("l2a") == parse_method_text("kd+l2a") == {"kd": {}, "l2a": {}}
    assert list(parse_method_text("refill+swa")) == ["kd", "swa", "refill"]
    assert list(parse_method_text("bam+source")) == ["bam", "source"]
    assert list(methods_at(parse_method_text("l2a"), "texts")) == ["l2a"]
    gold = parse_method_text("source:labels=gold")
    assert list(gold) == ["source"]
    assert not needs_teacher(gold)
    assert list(parse_method_text("kd+source:labels=gold")) == ["kd", "source"]
    with pytest.raises(ValueError, match="added texts have the teacher's targets only"):
        parse_method_text("none+refill")


def test_names_are_read_without_torch() -> None:
    """Catches `compressor --help` that waits for torch."""
    code = "import sys, compressor.distillation.presets; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
