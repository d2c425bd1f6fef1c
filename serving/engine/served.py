"""A bundle as lanes use it: with its fitted cost model, its token estimator and a text known to work."""

from __future__ import annotations

import time
from collections.abc import Sequence

from serving.bundle import Bundle
from serving.engine.admission import TokenEstimator
from serving.engine.cost import GRID_ROWS, CostModel, warm_up
from serving.errors import UserError, bundle_at_fault
from serving.manifest import TaskSpec
from serving.model import OnnxModel
from serving.tokenise import Encoding

WARM_UP_TEXT = (
    "My order of last week has still not arrived, and nobody answers the telephone. Please cancel it, "
    "refund the money to my card, and tell me when that is done."
)
WARM_UP_SECONDS = 0.5
FAILURES_BEFORE_PROBE = 8


class Served:
    """One bundle in service; lives as long as work that was admitted to it."""

    def __init__(self, bundle: Bundle, costs: CostModel, estimator: TokenEstimator, known: Encoding) -> None:
        """Join what `prepare` has measured."""
        self.bundle = bundle
        self.costs = costs
        self.estimator = estimator
        self._known = known

    @classmethod
    def prepare(cls, bundle: Bundle, max_rows: int | None = None, box_seconds: float = WARM_UP_SECONDS) -> Served:
        """Warm a bundle up and fit its cost model.

        Args:
            bundle: loaded.
            max_rows: texts per call that were asked for; None lets the cost model decide.
            box_seconds: for the measurements.

        Raises:
            UserError: several texts per call were asked for, but a neighbour would change answers; or no memory left.
            BundleError: the model does not answer.
        """
        can_merge = bundle.safe_batch_size > 1
        if max_rows is not None and max_rows > 1 and not can_merge:
            raise UserError(
                f"up to {max_rows} texts per call were asked for, but a neighbour changes the answers of "
                f"{bundle.artifact.file}. Leave the batch at 'auto', or serve a batch-invariant precision."
            )
        model = bundle.model
        text = (WARM_UP_TEXT,) * len(bundle.manifest.inputs.text_columns)
        known = model.encoder.encode_checked(text)
        rows = GRID_ROWS if can_merge and max_rows != 1 else (1,)
        longest_text = bundle.manifest.inputs.max_length
        with bundle_at_fault(f"{bundle.artifact.file} fails on texts of up to {longest_text} tokens"):
            costs = warm_up(
                lambda count, longest: _measure(model, known, count, longest),
                longest_text,
                rows=rows,
                box_seconds=box_seconds,
            )
        estimator = TokenEstimator(longest_text)
        estimator.correct(text, len(known))
        return cls(bundle, costs, estimator, known)

    def still_works(self) -> bool:
        """Whether the model answers a text that it has answered before."""
        try:
            self.bundle.model.call([self._known], self.bundle.model.tasks)
        except BaseException:  # noqa: BLE001 - whatever is raised is a no, and the caller reports it
            return False
        return True


def _measure(model: OnnxModel, known: Encoding, rows: int, longest: int) -> float:
    """Seconds of one call over copies of a text, repeated or cut to a length."""
    times = -(-longest // len(known))
    encoding = Encoding((known.input_ids * times)[:longest], (known.token_type_ids * times)[:longest], False)
    tasks: Sequence[TaskSpec] = model.tasks
    start = time.perf_counter()
    model.call([encoding] * rows, tasks)
    return time.perf_counter() - start
