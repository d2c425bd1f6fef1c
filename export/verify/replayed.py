"""Claims that are checked by running the graph: golden examples, and what company does to a text."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from export.parity.invariance import INVARIANCE_LIMIT, measure_batch_difference
from export.runners import session_runner
from export.verify.claim import Claim, checked, decided, failed
from serving.bundle import Bundle
from serving.errors import UserError
from serving.golden import SHORT_SET, Golden, read_golden, replay
from serving.manifest import Artifact


def replayed_claims(folder: Path, artifact: Artifact) -> Iterator[Claim]:
    """Load one artifact, replay both golden sets, and put the golden texts into each other's company."""
    short, large = f"{artifact.file}: golden examples, short set", f"{artifact.file}: golden examples, large set"
    try:
        golden = read_golden(folder)
        bundle = Bundle.load(folder, artifact.precision, check=False)
    except UserError as error:
        yield from (failed(name, str(error)) for name in (short, large, _invariance_name(artifact)))
        return
    yield _replay(short, golden, bundle, SHORT_SET)
    yield _replay(large, golden, bundle, len(golden.texts))
    yield _invariance_claim(golden, bundle, artifact)


def _replay(name: str, golden: Golden, bundle: Bundle, num_examples: int) -> Claim:
    try:
        replay(golden, bundle.model, bundle.artifact, num_examples)
    except UserError as error:
        return failed(name, str(error))
    number = min(num_examples, len(golden.texts))
    return checked(name, f"all {number} repeated within {bundle.artifact.tolerance:.2g}")


def _invariance_name(artifact: Artifact) -> str:
    claimed = "does not change" if artifact.batch_invariant else "may change"
    return f"{artifact.file}: company in a batch {claimed} its logits"


def _invariance_claim(golden: Golden, bundle: Bundle, artifact: Artifact) -> Claim:
    """A claimed invariance must be seen; a claimed dependence only allows what is seen."""
    name = _invariance_name(artifact)
    try:
        found = _batch_difference(golden, bundle)
    except UserError as error:
        return failed(name, str(error))
    detail = f"at most {found:.2g} on golden texts, invariant is {INVARIANCE_LIMIT:g}"
    return decided(name, detail, holds=found <= INVARIANCE_LIMIT or not artifact.batch_invariant)


def _batch_difference(golden: Golden, bundle: Bundle) -> float:
    run = session_runner(bundle.model.session, bundle.model.tasks)
    return measure_batch_difference(run, bundle.model.encoder, golden.texts, bundle.model.tasks)
