"""What the selector of added texts did: rewards of its episodes, whether to believe them, the shares it tried."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from compressor.report.augmentation_plots import cheap_against_full, over_episodes
from compressor.report.plots import Figure
from compressor.report.table import Table
from compressor.report.wording import MISSING, compact, count, figure, is_known, number_of

_PERIODS = 10
_FEWEST = 5
"""Episodes that a quarter must have to be spoken of."""
_ERRORS = 2.0
"""Standard errors that a mean must be from zero to be told from it."""
LEAST_PAIRS = 15
"""Rewards are ranked within the stored states: of fewer pairs chance alone gives high correlations too often."""

Facts = Mapping[str, Any]


@dataclass(frozen=True)
class SelectionView:
    """What the page shows of a selector.

    Attributes:
        seen: what drawings and tables show, a sentence each.
        curves: reward and share of kept texts over the episodes; empty where there were none.
        episodes: the same in tenths of the episodes, as figures.
        pairs: cheap rewards against full ones; None without any.
        pairs_table: the same as figures.
        correlation: whether the two rank alike; empty where nobody asked.
        shares: what was tried, and its loss on the reward rows; None where nothing was.
        sizes: on how many rows rewards are measured.
    """

    seen: tuple[str, ...]
    curves: tuple[Figure, ...]
    episodes: Table | None
    pairs: Figure | None
    pairs_table: Table | None
    correlation: str
    shares: Table | None
    sizes: str


def selection_view(facts: Facts) -> SelectionView | None:
    """The selector's part of a task's section; None for a method without one."""
    selection = facts.get("selection")
    if not selection:
        return None
    curve = [row for row in selection.get("curve") or [] if is_known(row.get("reward"))]
    correlation = selection.get("correlation")
    pairs = [pair for pair in (correlation or {}).get("pairs") or [] if all(map(is_known, pair))]
    return SelectionView(
        seen=tuple(filter(None, _in_words(facts, selection, curve))),
        curves=_curves(curve),
        episodes=_episodes_table(curve) if curve else None,
        pairs=cheap_against_full(pairs) if pairs else None,
        pairs_table=_pairs_table(pairs) if pairs else None,
        correlation="" if correlation is None else _correlation(correlation.get("rho"), len(pairs)),
        shares=_shares_table(selection) if selection.get("shares") else None,
        sizes=_sizes(facts.get("counts") or {}),
    )


def _in_words(facts: Facts, selection: Facts, curve: Sequence[Facts]) -> tuple[str, ...]:
    episodes = (_reward(curve), _trend(curve, facts.get("credit")), _kept(curve))
    return (_whose(facts.get("selector")), _judge(facts.get("knobs") or {}), *episodes, _choice(selection))


def _whose(selector: str | None) -> str:
    """Both controls take the learned selector's share: what is shown is not of their own choice."""
    if selector in (None, "learned"):
        return ""
    return (
        "This control reads as many texts of each class as the learned selector keeps, chosen otherwise. What is shown "
        "here is of the learned selector."
    )


def _judge(knobs: Facts) -> str:
    return "Every episode was judged by the whole student." if knobs.get("reward") == "student" else ""


def _curves(curve: Sequence[Facts]) -> tuple[Figure, ...]:
    titles = {"reward": "reward: loss that the kept texts took off", "keep_rate": "share of the offered texts kept"}
    return tuple(drawn for key, title in titles.items() if (drawn := over_episodes(curve, key, title)))


def _quarters(curve: Sequence[Facts], key: str) -> tuple[list[float], list[float]]:
    """A figure in the first and in the last quarter of the episodes; empty where these are too short."""
    values = [row[key] for row in curve if is_known(row.get(key))]
    quarter = len(values) // 4
    return (values[:quarter], values[-quarter:]) if quarter >= _FEWEST else ([], [])


def _mean_and_error(values: Sequence[float]) -> tuple[float, float]:
    return float(np.mean(values)), float(np.std(values, ddof=1)) / math.sqrt(len(values))


def _reward(curve: Sequence[Facts]) -> str:
    """Whether the texts that were kept late did the head any good, whichever way."""
    late = _quarters(curve, "reward")[1]
    if not late:
        return f"With {number_of(len(curve), 'episode')} nothing can be said of the reward." if curve else ""
    mean, error = _mean_and_error(late)
    when = f"In the last {len(late)} of {len(curve)} episodes"
    measured = f"(mean reward {_signed(mean)}, standard error {compact(error)})"
    if abs(mean) <= _ERRORS * error or mean == 0:
        return f"{when} what the kept texts did to the loss on the reward rows cannot be told from nothing {measured}."
    did = "lowered" if mean > 0 else "raised"
    return f"{when} the kept texts {did} the loss on the reward rows, against the labelled rows alone {measured}."


def _trend(curve: Sequence[Facts], credit: str | None) -> str:
    """Whether the reward rose while the policy learned; a datamodel keeps at random, so its reward need not."""
    early, late = _quarters(curve, "reward")
    if credit == "datamodel" and curve:
        return "A datamodel keeps at random while it learns, so its reward is not meant to rise."
    if not early:
        return ""
    (before, error_before), (after, error_after) = _mean_and_error(early), _mean_and_error(late)
    rise, error = after - before, math.hypot(error_before, error_after)
    measured = f"({_signed(rise)}, standard error {compact(error)})"
    if abs(rise) <= _ERRORS * error or rise == 0:
        return f"No evidence that the reward changed from the first quarter of the episodes to the last {measured}."
    return f"From the first quarter of the episodes to the last the reward {'rose' if rise > 0 else 'fell'} {measured}."


def _kept(curve: Sequence[Facts]) -> str:
    early, late = _quarters(curve, "keep_rate")
    if not early:
        return ""
    return (
        f"It kept {np.mean(early):.0%} of what it was offered in the first quarter of the episodes, and "
        f"{np.mean(late):.0%} in the last."
    )


def _choice(selection: Facts) -> str:
    """The share that was taken, beside what keeping everything would have had."""
    tried = {row.get("share"): row for row in selection.get("shares") or []}
    chosen = selection.get("share")
    if chosen is None or not is_known(tried.get(chosen, {}).get("loss")):
        return ""
    if len(tried) == 1:
        return f"The share that is kept was given: {chosen:.0%}."
    whole = selection.get("confirmation")
    if chosen == 1:
        why = _why_everything(tried) if whole is None else _denied(whole)
        return f"Everything is kept ({_loss(tried[1.0])} on the reward rows): {why}."
    beside = f"; everything: {_loss(tried[1.0])}" if is_known(tried.get(1.0, {}).get("loss")) else ""
    told = f"The share that was chosen is {chosen:.0%} ({_loss(tried[chosen])} on the reward rows{beside})."
    return told if whole is None else f"{told} Whole students agree: with it their loss is less {_by(whole)}."


def _why_everything(tried: Mapping[float, Facts]) -> str:
    """Whether a smaller share had the lesser loss, though not clearly."""
    best = min((row for row in tried.values() if is_known(row.get("loss"))), key=lambda row: row["loss"])
    if best["share"] == 1:
        return "no choice among the candidates was better"
    return f"{best['share']:.0%} had less ({_loss(best)}, {_by(best)}), which is not clear of chance"


def _denied(whole: Facts) -> str:
    """The head's wish, which whole students did not confirm."""
    what = f"less, {_by(whole)}, which is not clear of chance" if whole["gain"] > 0 else f"not less ({_by(whole)})"
    return f"the head would keep {whole['share']:.0%}, but the loss of whole students is {what}"


def _by(row: Facts) -> str:
    return f"by {compact(row.get('gain'))}, standard error {compact(row.get('error'))}"


def _correlation(rho: float | None, pairs: int) -> str:
    """Whether the reward of the head alone ranks as that of the whole student, and what chance would show."""
    repeated = f"{number_of(pairs, 'episode')} {'was' if pairs == 1 else 'were'} repeated with the whole student"
    if pairs < LEAST_PAIRS:
        return f"{repeated.capitalize()}: too few for a rank correlation, which takes {LEAST_PAIRS}."
    if rho is None or not is_known(rho):
        return f"{repeated.capitalize()}, and one of the two rewards never changed: there is no rank correlation."
    chance = min(1.0, 1.96 / math.sqrt(pairs - 1))
    told = "more than chance" if abs(rho) > chance else "no evidence that the two rank alike"
    if rho < -chance:
        told = "the two rank against each other"
    return (
        f"{repeated.capitalize()}: rank correlation of the cheap and the full reward {rho:.2f}, n = {pairs}. By chance "
        f"alone it would lie between -{chance:.2f} and {chance:.2f} about 19 times in 20: {told}."
    )


def _signed(value: float) -> str:
    return f"+{compact(value)}" if value > 0 else compact(value)


def _episodes_table(curve: Sequence[Facts]) -> Table:
    """Means over tenths of the episodes."""
    columns = {"reward": "mean reward", "keep_rate": "share kept", "entropy": "entropy, nats"}
    periods = [part.tolist() for part in np.array_split(np.arange(len(curve)), _PERIODS) if len(part)]
    rows = tuple(
        (
            f"{_number(curve, part[0])} – {_number(curve, part[-1])}",
            *(_mean([curve[place].get(key) for place in part]) for key in columns),
        )
        for part in periods
    )
    return Table(("episodes", *columns.values()), rows)


def _number(curve: Sequence[Facts], place: int) -> str:
    return count(curve[place].get("episode", place + 1))


def _mean(values: Sequence[float | None]) -> str:
    known = [value for value in values if value is not None and is_known(value)]
    return compact(float(np.mean(known))) if known else MISSING


def _pairs_table(pairs: Sequence[Sequence[float]]) -> Table:
    rows = tuple((str(place), *map(_signed, pair)) for place, pair in enumerate(pairs, start=1))
    return Table(("repeated", "cheap reward", "full reward"), rows)


def _shares_table(selection: Facts) -> Table:
    shares = selection["shares"]
    rows = tuple(
        (
            f"{row['share']:.0%}" if is_known(row.get("share")) else MISSING,
            count(row.get("kept")),
            _loss(row),
            *(compact(row.get(key)) for key in ("gain", "error")),
        )
        for row in shares
    )
    marks = tuple("default" if row.get("share") == selection.get("share") else "" for row in shares)
    columns = ("share kept", "texts", "loss on the reward rows", "less than all by", "standard error")
    return Table(columns, rows, marks=marks)


def _loss(row: Facts) -> str:
    return figure(row.get("loss"))


def _sizes(counts: Facts) -> str:
    reward, folds = counts.get("reward_rows"), counts.get("folds") or 1
    if not reward:
        return ""
    of_all = f"{count(reward)} of the {count(counts.get('target_rows'))} labelled rows"
    held = f"{of_all}, in turn in {folds} folds" if folds > 1 else f"{of_all}, which the episodes do not train on"
    return f"Rewards are measured on {held}; the student at the end trains on all of them."
