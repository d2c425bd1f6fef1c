"""Errors that carry their exit code, raised on every floor and printed once by the command line."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator

_NO_MEMORY = re.compile(r"[Ff]ailed to allocate memory|bad_alloc")


class UserError(Exception):
    """Something the user can mend: one line that says what happened, what was expected and what to do next.

    The command line prints the message without a traceback and exits with 2.
    """

    exit_code = 2


class MissingExtraError(UserError):
    """A command needs an optional part of the installation; the message holds the install line."""

    def __init__(self, module: str, extra: str) -> None:
        super().__init__(
            f"this needs the package '{module}', which is not installed. "
            f"Install it with: pip install 'compressor-toolchain[{extra}]'"
        )


class BundleError(UserError):
    """A bundle is incomplete, corrupt or does not answer as its golden examples say."""


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an exception says that there is no memory; ONNX Runtime's is of no class of its own."""
    return isinstance(error, MemoryError) or _NO_MEMORY.search(str(error)) is not None


@contextlib.contextmanager
def bundle_at_fault(what: str) -> Iterator[None]:
    """Whatever is raised inside refuses the bundle; UserErrors pass as they are.

    Args:
        what: failed, for the message: "the graph fails on ...".

    Raises:
        UserError: there was no memory for it.
        BundleError: with the first line of what else was raised.
    """
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        if is_out_of_memory(error):
            raise UserError(
                f"{what}, for want of memory. Give the process more, or restart it with this bundle."
            ) from error
        reason = str(error).strip().partition("\n")[0] or type(error).__name__
        raise BundleError(f"{what}: {reason}. Copy or export the bundle again.") from error


class GateFailed(Exception):
    """A gate or a claim failed; everything measured was written before this was raised. Exits with 3."""

    exit_code = 3
