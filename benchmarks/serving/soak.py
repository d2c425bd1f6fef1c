"""Memory over time under texts of random lengths, for the session options that decide about memory.

    .venv/bin/python -m benchmarks.serving.soak BUNDLE --seconds 600 --output runs/soak.json

Each variant runs in a process of its own: lanes call one session, each with texts of random length, and the
resident set is read once a second. A variant is flat when the second half of its time grows by less than 1%.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import random
import resource
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from serving.bundle import Bundle
from serving.golden import read_golden
from serving.host import describe_host

VARIANTS: dict[str, dict[str, Any]] = {
    "arena, pattern": {"arena": True, "pattern": True},
    "arena": {"arena": True, "pattern": False},
    "pattern": {"arena": False, "pattern": True},
    "neither": {"arena": False, "pattern": False},
    "arena, shrinkage": {"arena": True, "pattern": False, "shrinkage": True},
}
MIB = 1 << 20
BIN_SECONDS = 1e-5
NUM_BINS = 100_000
"""Latencies are counted, not kept: a list of all of them grows by as much as a leak that the soak looks for."""


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the variants one after another and write what they did."""
    given = sys.argv[1:] if arguments is None else list(arguments)
    options = _parser().parse_args(given)
    if options.variant is not None:
        print(json.dumps(soak(options.bundle, VARIANTS[options.variant], options)))
        return
    results = {"machine": describe_host(), "seconds": options.seconds, "lanes": options.lanes, "variants": {}}
    columns = ("first, MiB", "half, MiB", "end, MiB", "peak, MiB", "CPU-ms/text", "p99, ms")
    print(f"{'variant':18}" + "".join(f"{column:>13}" for column in columns))
    for variant in options.only or VARIANTS:
        command = [sys.executable, "-m", "benchmarks.serving.soak", *given, "--variant", variant]
        found = json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout)
        results["variants"][variant] = found
        print(
            f"{variant:18}{found['first_mib']:13.1f}{found['half_mib']:13.1f}{found['end_mib']:13.1f}"
            f"{found['peak_mib']:13.0f}{found['cpu_ms_per_text']:13.3f}{found['p99_ms']:13.2f}",
            flush=True,
        )
    if options.output is not None:
        options.output.write_text(json.dumps(results, indent=2) + "\n")


def soak(bundle_folder: Path, variant: dict[str, Any], options: argparse.Namespace) -> dict[str, Any]:
    """One variant: RSS once a second (MiB), CPU and latency per text."""
    bundle = Bundle.load(bundle_folder, options.precision)
    session = _session(bundle_folder / bundle.artifact.file, variant)
    bundle.model.session = session
    words = " ".join(" ".join(text) for text in read_golden(bundle_folder).texts).split()
    stop = threading.Event()
    latencies = [np.ones(NUM_BINS, dtype=np.int64) for _ in range(options.lanes)]  # ones: all of it is resident now
    lanes = [
        threading.Thread(target=_lane, args=(bundle, words, variant, stop, latencies[seed]), kwargs={"seed": seed})
        for seed in range(options.lanes)
    ]
    cpu, start = time.process_time(), time.monotonic()
    for lane in lanes:
        lane.start()
    memory = []
    num_looks = max(10, math.ceil(options.seconds))
    for look in range(1, num_looks + 1):
        time.sleep(max(0.0, start + look * options.seconds / num_looks - time.monotonic()))
        memory.append(resident_mib())
    stop.set()
    for lane in lanes:
        lane.join()
    counts = np.sum(latencies, axis=0) - len(latencies)
    texts = int(counts.sum())
    return {
        "first_mib": memory[0],
        "half_mib": memory[len(memory) // 2],
        "end_mib": memory[-1],
        "peak_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
        "model_mib": bundle.artifact.bytes / MIB,
        "texts": texts,
        "cpu_ms_per_text": (time.process_time() - cpu) * 1e3 / max(1, texts),
        "p99_ms": percentile(counts, 0.99) * 1e3,
        "memory_mib": memory,
    }


def percentile(counts: NDArray[np.int64], share: float) -> float:
    """Seconds within which a share of the texts were answered, rounded up to whole bins.

    Args:
        counts: texts per `BIN_SECONDS` of latency; the last bin has all that took longer.
        share: between 0 and 1.
    """
    return (int(np.searchsorted(np.cumsum(counts), share * counts.sum())) + 1) * BIN_SECONDS


def _lane(
    bundle: Bundle,
    words: Sequence[str],
    variant: dict[str, Any],
    stop: threading.Event,
    latencies: NDArray[np.int64],
    *,
    seed: int,
) -> None:
    """Texts of 1 to max_length words, one at a time, until the stop."""
    import onnxruntime as runtime

    generator = random.Random(seed)
    run_options = runtime.RunOptions()
    if variant.get("shrinkage"):
        run_options.add_run_config_entry("memory.enable_memory_arena_shrinkage", "cpu:0")
    names = [task.output for task in bundle.model.tasks]
    session: Any = bundle.model.session
    while not stop.is_set():
        text = " ".join(generator.choices(words, k=generator.randint(1, bundle.manifest.inputs.max_length)))
        columns = len(bundle.manifest.inputs.text_columns)
        start = time.perf_counter()
        inputs = bundle.model.encoder.batch(bundle.encode([(text,) * columns]))
        session.run(names, inputs, run_options)
        latencies[min(int((time.perf_counter() - start) / BIN_SECONDS), NUM_BINS - 1)] += 1


def _session(path: Path, variant: dict[str, Any]) -> Any:
    """A session as the server makes it, but for the variant's options."""
    import onnxruntime as runtime

    options = runtime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 3
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.enable_cpu_mem_arena = variant["arena"]
    options.enable_mem_pattern = variant["pattern"]
    return runtime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


def resident_mib() -> float:
    """This process's resident set."""
    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / MIB


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--precision")
    parser.add_argument("--seconds", type=float, default=600.0, help="for each variant")
    parser.add_argument("--lanes", type=int, default=1)
    parser.add_argument("--only", action="append", choices=VARIANTS, help="a variant to run; all when left out")
    parser.add_argument("--output", type=Path)
    parser.add_argument("--variant", choices=VARIANTS, help=argparse.SUPPRESS)
    return parser


if __name__ == "__main__":
    main()
