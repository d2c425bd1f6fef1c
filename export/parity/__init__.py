"""Whether a graph still says what the student said: tokens, logits, answers and metric, in every shape and company."""

from export.parity.checked import NO_LOGIT
from export.parity.difference import compare
from export.parity.invariance import INVARIANCE_LIMIT, measure_batch_difference, measure_invariance

__all__ = ["INVARIANCE_LIMIT", "NO_LOGIT", "compare", "measure_batch_difference", "measure_invariance"]
