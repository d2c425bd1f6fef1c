"""What the page says of a selector: curves under their own names, and words that do not praise what is chance."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest

from compressor.report.augmentation_plots import over_episodes, smoothed
from compressor.report.augmentation_selector import SelectionView, selection_view

Curve = Callable[..., list[dict[str, float]]]
Pairs = Callable[[int], list[list[float]]]


def selection_of(facts: dict[str, Any]) -> SelectionView:
    found = selection_view(facts)
    assert found is not None
    return found


def test_the_running_mean_is_one() -> None:
    """A line that lags, or that is pulled to zero at its ends, shows a selector that learns or forgets."""
    values = [float(place) for place in range(60)]
    line = smoothed(values)
    assert line[3:-3] == pytest.approx(values[3:-3])
    assert line[0] == pytest.approx(1.5)
    assert line[-1] == pytest.approx(57.5)
    assert smoothed([2.0]) == [2.0]


def test_every_episode_is_a_point_of_its_own_figure(facts: dict[str, Any]) -> None:
    """Keep rates under the name of the reward would be read as a huge gain."""
    reward, kept = selection_of(facts).curves
    rows = facts["selection"]["curve"]
    for drawn, key in ((reward, "reward"), (kept, "keep_rate")):
        points, line = drawn["data"]
        assert points["y"] == [row[key] for row in rows]
        assert points["x"] == line["x"] == [row["episode"] for row in rows]
        assert line["y"] == smoothed(points["y"])
    assert reward["layout"]["title"]["text"].startswith("reward")
    assert kept["layout"]["title"]["text"].startswith("share")
    assert over_episodes([], "reward", "reward") is None


def test_episodes_stand_in_tenths_for_readers_without_drawings(facts: dict[str, Any]) -> None:
    """Without JavaScript there is no curve."""
    table = selection_of(facts).episodes
    assert table is not None
    assert len(table.rows) == 10
    assert table.rows[0][0] == "1 – 40"
    assert table.rows[9][0] == "361 – 400"
    assert float(table.rows[9][1]) == pytest.approx(0.01 * (360 + 19.5) / 400, rel=0.01)
    assert float(table.rows[0][2]) == pytest.approx(0.8 - 0.4 * 19.5 / 400, rel=0.01)
    assert float(table.rows[9][3]) == pytest.approx(0.69 - 0.2 * (360 + 19.5) / 400, rel=0.01)


@pytest.mark.parametrize(
    ("start", "end", "reward", "trend"),
    [
        (0.0, 0.01, "the kept texts lowered the loss", "the last the reward rose (+0.0075, standard error 0.0005"),
        (0.01, 0.01, "the kept texts lowered the loss", "No evidence that the reward changed"),
        (0.0, 0.0, "cannot be told from nothing", "No evidence that the reward changed"),
        (0.0, -0.01, "the kept texts raised the loss", "the last the reward fell (-0.0075"),
    ],
)
def test_rewards_are_told_from_chance_in_words(
    facts: dict[str, Any], curve: Curve, start: float, end: float, reward: str, trend: str
) -> None:
    """A caption that praises the selector whatever it did is worse than none."""
    facts["selection"]["curve"] = curve(start=start, end=end)
    first, second = selection_of(facts).seen[:2]
    assert first.startswith("In the last 100 of 400 episodes")
    assert reward in first
    assert trend in second


def test_the_standard_error_is_that_of_the_mean(facts: dict[str, Any], curve: Curve) -> None:
    """Without the root of the number of episodes no reward is ever told from nothing."""
    facts["selection"]["curve"] = curve(start=0.001, end=0.001)
    error = 0.004 * math.sqrt(100 / 99) / 10
    assert f"(mean reward +0.001, standard error {error:.3g})" in selection_of(facts).seen[0]
    assert "lowered" in selection_of(facts).seen[0]
    facts["selection"]["curve"] = curve(start=0.0007, end=0.0007)
    assert "cannot be told from nothing" in selection_of(facts).seen[0]


def test_the_reward_is_that_of_the_policy_that_was_learned(facts: dict[str, Any], curve: Curve) -> None:
    """What it was worth while it still knew nothing says nothing of the texts that it keeps."""
    facts["selection"]["curve"] = curve(start=0.0, end=0.01)
    assert "(mean reward +0.00874, standard error" in selection_of(facts).seen[0]


def test_a_rise_is_told_by_the_errors_of_both_quarters(facts: dict[str, Any], curve: Curve) -> None:
    """With the error of one quarter alone a rise of chance is called one too often."""
    error = 0.0057
    for rise, word in ((1.9, "No evidence"), (2.3, "rose")):
        facts["selection"]["curve"] = curve(start=0.0, end=rise * error / 0.75, noise=0.04)
        assert word in selection_of(facts).seen[1]


def test_rewards_that_are_all_zero_are_nothing(facts: dict[str, Any], curve: Curve) -> None:
    """Where nothing is kept every reward is exactly 0, and so is its standard error."""
    facts["selection"]["curve"] = curve(start=0.0, end=0.0, noise=0.0)
    first, second = selection_of(facts).seen[:2]
    assert "cannot be told from nothing" in first
    assert "No evidence" in second


def test_few_episodes_are_said_to_be_few(facts: dict[str, Any], curve: Curve) -> None:
    """A mean of three rewards looks like a finding."""
    facts["selection"]["curve"] = curve(start=0.0, end=0.1, episodes=19)
    assert selection_of(facts).seen[0] == "With 19 episodes nothing can be said of the reward."
    facts["selection"]["curve"] = curve(start=0.0, end=0.1, episodes=20)
    assert selection_of(facts).seen[0].startswith("In the last 5 of 20 episodes")
    facts["selection"]["curve"] = []
    found = selection_of(facts)
    assert found.curves == ()
    assert found.episodes is None
    assert len(found.seen) == 1


def test_an_episode_without_reward_is_none(facts: dict[str, Any]) -> None:
    """Counted among the others it would say that more was looked at than was; drawn, it would end the page."""
    facts["selection"]["curve"][7]["reward"] = math.nan
    facts["selection"]["curve"][8]["reward"] = None
    found = selection_of(facts)
    assert "of 398 episodes" in found.seen[0]
    assert len(found.curves[1]["data"][0]["y"]) == 398


@pytest.mark.parametrize("nothing", [None, {}])
def test_a_method_without_selector_has_no_such_part(facts: dict[str, Any], nothing: Any) -> None:
    """A heading over nothing looks like a selector that failed."""
    assert selection_view(facts | {"selection": nothing}) is None


def test_a_datamodel_is_not_blamed_for_a_flat_reward(facts: dict[str, Any]) -> None:
    """It keeps at random while it learns: its reward cannot rise."""
    found = selection_of(facts | {"credit": "datamodel"})
    assert found.seen[1] == "A datamodel keeps at random while it learns, so its reward is not meant to rise."


def test_how_much_was_kept_early_and_late_is_said(facts: dict[str, Any]) -> None:
    """A policy that keeps everything, or nothing, chooses nothing."""
    assert selection_of(facts).seen[2] == (
        "It kept 75% of what it was offered in the first quarter of the episodes, and 45% in the last."
    )


def test_the_chosen_share_stands_beside_keeping_everything(facts: dict[str, Any]) -> None:
    """The loss of the chosen share alone says nothing of what selecting was good for."""
    found = selection_of(facts)
    assert found.shares is not None
    assert found.shares.rows[0] == ("25%", "612", "0.432", "0.0079", "0.0214")
    assert found.shares.marks == ("", "default", "", "")
    assert found.seen[3] == "The share that was chosen is 50% (0.410 on the reward rows; everything: 0.440)."


def test_why_everything_is_kept_is_said(facts: dict[str, Any]) -> None:
    """That a smaller share had less loss, and was not taken, would look like a mistake without its error."""
    selection = facts["selection"]
    selection["share"] = 1.0
    selection["shares"][1]["error"] = 0.0321
    assert selection_of(facts).seen[3] == (
        "Everything is kept (0.440 on the reward rows): 50% had less (0.410, by 0.03, standard error 0.0321), which is "
        "not clear of chance."
    )
    selection["shares"][3]["loss"] = 0.4
    assert selection_of(facts).seen[3] == (
        "Everything is kept (0.400 on the reward rows): no choice among the candidates was better."
    )


def test_what_whole_students_said_to_a_smaller_share_is_told(facts: dict[str, Any]) -> None:
    """A share that the head alone preferred, and that was not taken, would look like a mistake."""
    selection = facts["selection"]
    selection["confirmation"] = {"share": 0.5, "gain": 0.0421, "error": 0.03}
    assert selection_of(facts).seen[3] == (
        "The share that was chosen is 50% (0.410 on the reward rows; everything: 0.440). Whole students agree: with it "
        "their loss is less by 0.0421, standard error 0.03."
    )
    selection |= {"share": 1.0, "confirmation": {"share": 0.5, "gain": -0.02, "error": 0.03}}
    assert selection_of(facts).seen[3] == (
        "Everything is kept (0.440 on the reward rows): the head would keep 50%, but the loss of whole students is not "
        "less (by -0.02, standard error 0.03)."
    )
    selection["confirmation"]["gain"] = 0.02
    assert (
        selection_of(facts)
        .seen[3]
        .endswith("the loss of whole students is less, by 0.02, standard error 0.03, which is not clear of chance.")
    )


@pytest.mark.parametrize("share", [0.5, 1.0])
def test_a_share_that_was_given_is_not_called_a_choice(facts: dict[str, Any], share: float) -> None:
    """Keeping everything because it was asked for says nothing of the selector."""
    facts["selection"] |= {"share": share, "shares": [{"share": share, "kept": 10, "loss": 0.4}]}
    assert selection_of(facts).seen[3] == f"The share that is kept was given: {share:.0%}."


def test_whole_students_that_judged_are_named(facts: dict[str, Any]) -> None:
    """The reward of the head and that of the whole student are not on one scale."""
    assert "whole student" not in " ".join(selection_of(facts).seen)
    knobs = facts["knobs"] | {"reward": "student"}
    assert selection_of(facts | {"knobs": knobs}).seen[0] == "Every episode was judged by the whole student."


@pytest.mark.parametrize("selector", ["random", "filter"])
def test_a_control_says_that_the_curves_are_not_its_own(facts: dict[str, Any], selector: str) -> None:
    """A random choice beside a reward that rises would look as if chance had learned something."""
    assert selection_of(facts | {"selector": selector}).seen[0].endswith("shown here is of the learned selector.")
    assert "control" not in " ".join(selection_of(facts).seen)


@pytest.mark.parametrize(
    ("rho", "number", "words"),
    [
        (
            0.62,
            20,
            "n = 20. By chance alone it would lie between -0.45 and 0.45 about 19 times in 20: more than chance",
        ),
        (0.3, 20, "no evidence that the two rank alike."),
        (-0.3, 20, "no evidence that the two rank alike."),
        (-0.8, 20, "the two rank against each other."),
        (0.6, 15, "between -0.52 and 0.52 about 19 times in 20: more than chance"),
        (1.0, 14, "14 episodes were repeated with the whole student: too few for a rank correlation, which takes 15."),
        (None, 2, "2 episodes were repeated with the whole student: too few for a rank correlation"),
        (None, 1, "One episode was repeated with the whole student: too few"),
        (None, 20, "20 episodes were repeated with the whole student, and one of the two rewards never changed"),
    ],
)
def test_the_cheap_reward_is_believed_as_far_as_the_pairs_go(
    facts: dict[str, Any], pairs: Pairs, rho: float | None, number: int, words: str
) -> None:
    """A rank correlation of 0.3 over twenty pairs is chance, and of two there is none."""
    facts["selection"]["correlation"] = {"rho": rho, "pairs": pairs(number)}
    assert words in selection_of(facts).correlation


def test_cheap_rewards_lie_across_and_full_ones_up(facts: dict[str, Any], pairs: Pairs) -> None:
    """Swapped axes would call the whole student the cheap one."""
    found = selection_of(facts)
    assert found.pairs is not None
    assert found.pairs_table is not None
    (dots,) = found.pairs["data"]
    assert dots["x"] == [cheap for cheap, _ in pairs(20)]
    assert dots["y"] == [full for _, full in pairs(20)]
    assert "cheap" in found.pairs["layout"]["xaxis"]["title"]["text"]
    assert found.pairs_table.rows[1] == ("2", "+0.001", "+0.002")
    facts["selection"]["correlation"] = None
    assert selection_of(facts).correlation == ""
    assert selection_of(facts).pairs is None


def test_the_reward_rows_are_said_to_be_part_of_the_labels(facts: dict[str, Any]) -> None:
    """They cost labels like any other row."""
    assert selection_of(facts).sizes == (
        "Rewards are measured on 50 of the 200 labelled rows, which the episodes do not train on; the student at the "
        "end trains on all of them."
    )
    facts["counts"]["folds"] = 4
    assert "labelled rows, in turn in 4 folds;" in selection_of(facts).sizes
