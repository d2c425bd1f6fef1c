"""What a reader must know before using the figures, in sentences; none when the measurement was undisturbed."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from export.benchmark.conditions import Conditions
from export.benchmark.drift import MIN_ROUNDS, Drift
from export.benchmark.summary import Measurement

FOREIGN_SHARE = 0.05
WORST_FOREIGN_SHARE = 0.25
STEAL_SHARE = 0.01
_QUIET = "Time it again on a quiet machine."


def notes_on(conditions: Conditions, drift: Drift | None, measurements: Sequence[Measurement]) -> list[str]:
    """Everything that speaks against a measurement.

    Args:
        conditions: while it was taken.
        drift: over its rounds; None where there were too few to look for one.
        measurements: that were taken.
    """
    return [*notes_on_load(conditions), *_on_drift(drift), *_on_warm_up(measurements)]


def notes_on_load(conditions: Conditions) -> Iterator[str]:
    """What other programs and the hypervisor took."""
    foreign, worst, cpus = conditions.foreign_cpus, conditions.worst_foreign_cpus, conditions.cpus
    if foreign is None or worst is None:
        yield "This system does not tell what other programs did meanwhile: foreign load could not be looked for."
    elif foreign > FOREIGN_SHARE * cpus or worst > WORST_FOREIGN_SHARE * cpus:
        yield (
            f"Other programs kept {foreign:.2f} of the {cpus} CPUs busy on average and {worst:.2f} in the worst "
            f"second: the latencies are too high, the ratios less sure. {_QUIET}"
        )
    if conditions.steal_share is not None and conditions.steal_share > STEAL_SHARE:
        yield f"The hypervisor took {conditions.steal_share:.1%} of the CPU time away. {_QUIET}"


def _on_drift(drift: Drift | None) -> Iterator[str]:
    if drift is None:
        yield f"With fewer than {MIN_ROUNDS} rounds a drift of the machine could not be looked for."
    elif drift.is_seen:
        word = "slower" if drift.change > 0 else "faster"
        yield (
            f"The machine became {abs(drift.change):.0%} {word} from the first round to the last (trend test over "
            f"{drift.rounds} rounds, p = {drift.p_value:.3f}): the latencies are a mean over that. {_QUIET}"
        )


def _on_warm_up(measurements: Sequence[Measurement]) -> Iterator[str]:
    names = sorted({f"{m.variant} ({m.runtime}, {m.precision})" for m in measurements if not m.is_steady})
    if names:
        yield f"Still getting faster when the warm-up ended: {', '.join(names)}. Ask for more rounds or more texts."
