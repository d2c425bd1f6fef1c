"""A real server whose model fails as a text asks it to: `python faulty_server.py BUNDLE NAME=VALUE...`.

Faults are words of the toy tokenizer, three times over; `load_seconds=S` makes loading slow, and
`linger_factor=F` lets a server wait F times as long for the requests of connections made at its last moment.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn

from serving.bundle import Bundle
from serving.errors import UserError
from serving.operations import web
from serving.operations.server import serve
from serving.operations.settings import load_settings, parse_change

HANG_SECONDS = 60.0


def fail() -> NoReturn:
    """An exception in the model."""
    raise RuntimeError("the model broke")


def run_out_of_memory() -> NoReturn:
    """What a failed allocation is in Python."""
    raise MemoryError("no memory for 3 GB")


def hang() -> None:
    """A call that does not come back."""
    time.sleep(HANG_SECONDS)


FAULTS: dict[str, Callable[[], None]] = {"broken": fail, "refund": run_out_of_memory, "please": hang}


def say(line: str) -> None:
    """Where the command line prints too."""
    sys.stderr.write(f"{line}\n")
    sys.stderr.flush()


class FaultySession:
    """A session that looks at the words before it runs."""

    def __init__(self, session: Any, faults: Mapping[int, Callable[[], None]]) -> None:
        self._session = session
        self._faults = faults

    def __getattr__(self, name: str) -> Any:
        return getattr(self._session, name)

    def run(self, outputs: Sequence[str], inputs: Mapping[str, Any]) -> Any:
        """Fail where a row is [CLS] word word word [SEP]."""
        for row in inputs["input_ids"].tolist():
            words = row[1:4]
            if row[4:5] == [3] and len(set(words)) == 1 and words[0] in self._faults:
                self._faults[words[0]]()
        return self._session.run(outputs, inputs)


def main(folder: str, *changes: str) -> None:
    """Serve, faults included."""
    values = dict(map(parse_change, changes))
    load_seconds = float(values.pop("load_seconds", 0.0))
    web.LINGER_SECONDS *= float(values.pop("linger_factor", 1.0))
    load = Bundle.load

    def load_with_faults(*arguments: Any, **options: Any) -> Bundle:
        time.sleep(load_seconds)
        bundle = load(*arguments, **options)
        ids = {word: bundle.encode([word])[0].input_ids[1] for word in FAULTS}
        bundle.model.session = FaultySession(bundle.model.session, {ids[word]: FAULTS[word] for word in FAULTS})
        return bundle

    Bundle.load = load_with_faults  # type: ignore[method-assign]
    try:
        serve(Path(folder), load_settings(None, values), say)
    except UserError as error:
        say(f"error: {error}")
        sys.exit(2)


if __name__ == "__main__":
    main(*sys.argv[1:])
