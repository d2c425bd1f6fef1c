"""Curves over numbers of labels: every arm's mean, and how far one arm stands from each of the others."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.right_answers import scores_of
from compressor.comparison.answers import Scores
from compressor.comparison.statistics import paired_difference
from compressor.pipeline.stages import read_json
from compressor.report.wording import number_of

JUDGED = "k l2a"
NOTHING = "Not measured yet."
_LETTERS = {"none": "a none", "kd": "b kd"}
QUESTIONS = {
    "KD against labels": ("b", "a"),
    "source labels against KD": ("c", "b"),
    "raw source texts against KD": ("d", "b"),
    "source labels against source texts": ("c", "d"),
    "near source texts against all": ("e", "d"),
    "target texts without label against KD": ("f", "b"),
    "refilled target texts against KD": ("g", "b"),
    "refill across domains against target alone": ("h", "g"),
    "refill across domains against raw source texts": ("h", "d"),
    "the fixed filter against all refills": ("j", "h"),
    "the learned choice against all refills": ("k", "h"),
    "the learned choice against as many at random": ("k", "i"),
    "the learned choice against the fixed filter": ("k", "j"),
}
"""Each with the letters of the two arms that answer it."""
SIMPLER = "cdefghij"
BEST = "the learned choice against the best simpler way (k less the best of c to j)"
"""The best by the same means: chance, too, speaks for it and against the learned choice."""

Arms = Mapping[int, Mapping[str, Scores]]
"""Per number of labels the arms' scores, by label."""


def curves(results: Path, prefix: str) -> str:
    """Four tables in markdown from the kept comparisons `<prefix>_<labels>.json`; a note where there is none.

    The first has the mean test score of every arm in points, the second the paired difference of L2A to every other
    arm, the third the differences that answer the method's questions, with 95% intervals over seeds and test texts
    together (`compressor.comparison.statistics.paired_difference`). They are not corrected for their number. The fourth
    has what the selector kept, and whether its reward ranks as the whole student's does.
    """
    found = comparisons(results, prefix)
    if not found:
        return NOTHING
    columns = sorted(found)
    arms = {labels: _scores(found[labels]) for labels in columns}
    names = sorted({name for scores in arms.values() for name in scores})
    lines = [*_means(found, arms, names), "", *_head(f"{JUDGED} less", columns, found)]
    others = [name for name in names if name != JUDGED]
    lines += [_row(name, [_difference(arms[n].get(JUDGED), arms[n].get(name)) for n in columns]) for name in others]
    lines += ["", *_head("question", columns, found), *_answers(arms, columns)]
    lines += ["", *_head(f"the selector of {JUDGED}, per seed", columns, found), *_selector(found)]
    return "\n".join([*lines, "", _measured(found)])


def variants(results: Path, prefix: str, *, plain: Sequence[str]) -> str:
    """Two tables in markdown: every arm's mean, and how far each variant stands from the plain arm of its letter.

    Args:
        results: folder of the kept comparisons `<prefix>_<labels>.json`.
        prefix: of their names.
        plain: labels of the arms that are varied; the letter of an arm is its first word.
    """
    found = comparisons(results, prefix)
    if not found:
        return NOTHING
    columns = sorted(found)
    arms = {labels: _scores(found[labels]) for labels in columns}
    by_letter = {name.split()[0]: name for name in plain}
    known = {*plain, *_LETTERS.values()}
    names = sorted(
        dict.fromkeys(name for scores in arms.values() for name in scores),
        key=lambda name: (name.split()[0], name not in known),
    )
    lines = [*_means(found, arms, names), "", *_head("variant", columns, found)]
    for name in (name for name in names if name not in known):
        base = by_letter[name.split()[0]]
        lines.append(_row(f"{name} less {base}", [_difference(arms[n].get(name), arms[n].get(base)) for n in columns]))
    return "\n".join([*lines, "", _measured(found)])


def comparisons(results: Path, prefix: str) -> dict[int, dict[str, Any]]:
    """The kept comparisons by their number of labels."""
    paths = {path: re.fullmatch(rf"{re.escape(prefix)}_(\d+)", path.stem) for path in results.glob(f"{prefix}_*.json")}
    return {int(match[1]): read_json(path) for path, match in paths.items() if match}


def _scores(result: Mapping[str, Any]) -> dict[str, Scores]:
    return {_LETTERS.get(label, label): scores for label, scores in scores_of(result).items()}


def _means(found: Mapping[int, Any], arms: Arms, names: Sequence[str]) -> list[str]:
    columns = sorted(found)
    return [*_head("arm", columns, found), *(_row(name, [_mean(arms[n].get(name)) for n in columns]) for name in names)]


def _measured(found: Mapping[int, Any]) -> str:
    """On what, and where."""
    hosts = {(one["environment"]["cpu_model"], one["environment"]["available_cpus"]) for one in found.values()}
    where = "; ".join(f"{model}, {number_of(cpus, 'CPU')}" for model, cpus in sorted(hosts))
    tests = {one["tasks"][task]["rows"]["test"] for one in found.values() for task in one["tasks"]}
    intervals = "95% intervals over seeds and test texts together, not corrected for their number"
    return f"Points of accuracy on {max(tests)} test texts; {intervals}. {where}."


def _answers(arms: Arms, columns: Sequence[int]) -> Iterator[str]:
    """A row per question that some column can answer."""
    by_letter = {n: {name.split()[0]: scores for name, scores in of.items()} for n, of in arms.items()}
    for question, (one, other) in QUESTIONS.items():
        cells = [_difference(by_letter[n].get(one), by_letter[n].get(other)) for n in columns]
        if set(cells) != {"-"}:
            yield _row(f"{question} ({one} less {other})", cells)
    yield _row(BEST, [_less_the_best(by_letter[n]) for n in columns])


def _less_the_best(by_letter: Mapping[str, Scores]) -> str:
    own = by_letter.get(JUDGED.split()[0])
    others = {letter: scores for letter, scores in by_letter.items() if letter in SIMPLER}
    if own is None or not others:
        return "-"
    best = max(others, key=lambda letter: float(others[letter].values.mean()))
    return f"{_difference(own, others[best])}, {best}"


def _selector(found: Mapping[int, Mapping[str, Any]]) -> Iterator[str]:
    """The share of the candidates that was kept and the rank correlation, seed by seed; "-" where none is known."""
    read = {labels: _selections(result) for labels, result in found.items()}
    shares = [", ".join(f"{one['share']:.0%}" for one in read[labels]) or "-" for labels in sorted(found)]
    yield _row("share of the candidates kept", shares)
    known = {labels: [one["rho"] for one in read[labels] if one["rho"] is not None] for labels in found}
    yield _row("rank correlation", [", ".join(f"{rho:.2f}" for rho in known[n]) or "-" for n in sorted(found)])


def _selections(result: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    (task,) = result["tasks"]
    judged = [arm.get("added", {}) for arm in result["arms"] if arm["label"] == JUDGED]
    return [one for added in judged for one in added.get(task, {}).values()]


def scores_by_arm(result: Mapping[str, Any]) -> dict[str, dict[str, float]]:
    """Per arm its score by seed, in points."""
    (task,) = result["tasks"]
    return {
        _LETTERS.get(arm["label"], arm["label"]): {
            seed: 100.0 * score for seed, score in arm["tasks"][task]["per_seed"].items()
        }
        for arm in result["arms"]
    }


def _head(title: str, columns: Sequence[int], found: Mapping[int, Mapping[str, Any]]) -> list[str]:
    cells = [f"{labels} labels, {len(found[labels]['seeds'])} seeds" for labels in columns]
    return [_row(title, cells), _row("---", ["--:"] * len(columns))]


def _row(name: str, cells: Sequence[str]) -> str:
    return f"| {' | '.join([name, *cells])} |"


def _mean(scores: Scores | None) -> str:
    return "-" if scores is None else f"{scores.values.mean():.1f}"


def _difference(own: Scores | None, other: Scores | None) -> str:
    """Mean paired difference and its interval; of one seed none, which could be read as one over seeds."""
    seeds = [seed for seed in own.seeds if seed in other.seeds] if own and other else []
    if own is None or other is None or not seeds:
        return "-"
    (values, resampled), (base, base_resampled) = own.of(seeds), other.of(seeds)
    found = paired_difference(values - base, resampled - base_resampled)
    if len(seeds) < 2:
        return _signed(found.value)
    return f"{_signed(found.value)} [{_signed(found.low)}, {_signed(found.high)}]"


def _signed(points: float) -> str:
    """With its sign, of which nothing has none below zero."""
    return f"{round(points, 1) + 0.0:+.1f}"
