"""`compressor demo`: the whole run on the built-in corpus and teacher."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from cli.options import AsJson

EXAMPLES = (
    "I was charged twice for the same order and nobody answers my emails",
    "how do I change the delivery address before it ships?",
    "someone logged into my account from another country and moved money",
)


def demo(
    output: Annotated[Path, typer.Option(help="Folder of the run.")] = Path("runs/demo"),
    as_json: AsJson = False,
) -> None:
    """Compress the built-in teacher on the built-in corpus, offline, in minutes on two cores.

    A 6-layer MiniLM is fine-tuned on 12 intents of customer messages, a 3-layer student is distilled from it, its
    control is trained on labels alone, and the student is exported, quantised, checked, timed and reported.
    """
    from cli.printing import print_answers, print_json, print_summary
    from compressor.pipeline.run import RunFolder
    from compressor.recipe_file import load_recipe
    from compressor.recipes import DEMO
    from serving.bundle import Bundle

    run = RunFolder.open(output, load_recipe(DEMO))
    report = run.run_all()
    is_served = any(artifact["is_default"] for artifact in report["artifacts"])
    examples = EXAMPLES if is_served else ()
    answers = Bundle.load(run.folder / "bundle").predict(examples) if is_served else []
    if as_json:
        print_json(
            {
                **report,
                "examples": [{"text": [t], "answers": a} for t, a in zip(examples, answers, strict=True)],
            }
        )
    else:
        print_answers(examples, answers)
        print_summary(report, run.folder)
    run.check_gates(report)
