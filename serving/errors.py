"""Errors that carry their exit code, raised on every floor and printed once by the command line."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator


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


@contextlib.contextmanager
def bundle_at_fault(what: str) -> Iterator[None]:
    """Whatever is raised inside refuses the bundle; UserErrors pass as they are.

    Args:
        what: failed, for the message: "the graph fails on ...".

    Raises:
        BundleError: with the first line of what was raised.
    """
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        reason = str(error).strip().partition("\n")[0] or type(error).__name__
        raise BundleError(f"{what}: {reason}. Copy or export the bundle again.") from error


class GateFailed(Exception):
    """A gate or a claim failed; everything measured was written before this was raised. Exits with 3."""

    exit_code = 3
