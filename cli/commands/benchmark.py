"""`compressor benchmark`: latency and the waterfall alone."""

from __future__ import annotations

from cli.options import AsJson, Output, Place, Set, Stages


def benchmark(
    place: Place,
    overrides: Set = [],  # noqa: B006
    output: Output = None,
    stages: Stages = None,
    as_json: AsJson = False,
) -> None:
    """Time teacher, student and every artifact of a run on this machine."""
    from cli.printing import print_json, print_latency
    from compressor.pipeline.run import open_existing
    from compressor.report.assemble import timing_facts

    run = open_existing(place, overrides, output, stages=stages)
    pipeline = run.pipeline
    run.run(pipeline.benchmark, *([pipeline.waterfall] if pipeline.waterfall else []))
    found = timing_facts(pipeline)
    if as_json:
        print_json(found)
    else:
        print_latency(found)
