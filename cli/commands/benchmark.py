"""`compressor benchmark`: latency alone."""

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
    from cli.printing import print_json, print_measurements
    from compressor.pipeline.run import open_existing
    from compressor.pipeline.timing import read_latency

    run = open_existing(place, overrides, output, stages=stages)
    run.run(run.pipeline.benchmark)
    rows = read_latency(run.pipeline.path(run.pipeline.benchmark))
    if as_json:
        print_json(rows)
    else:
        print_measurements(rows)
