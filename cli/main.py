"""The `compressor` command: commands by name, and errors as one line with an exit code.

Exit codes: 0 done; 2 the user can mend it; 3 a gate or claim failed; 1 our fault.
"""

from __future__ import annotations

import errno
import logging
import os
import sys
import traceback
from typing import NoReturn

import typer
from rich.console import Console

from cli.commands import (
    benchmark,
    compare,
    demo,
    distill,
    doctor,
    export,
    key,
    predict,
    recipe,
    report,
    run,
    serve,
    teach,
    verify,
)
from serving.errors import GateFailed, MissingExtraError, UserError

_TRAIN_MODULES = {
    "accelerate", "datasets", "jinja2", "onnx", "onnxscript", "optimum", "pandas", "plotly", "psutil", "pyarrow",
    "pydantic", "yaml", "requests", "safetensors", "sklearn", "scipy", "torch", "transformers",
}  # fmt: skip
_INTERRUPTED = 130
_FULL_DISK = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
_FULL_DISK_WORDS = (
    "no space left",
    "disk quota exceeded",
    "file too large",
    "failed writing file",  # torch
    "unexpected pos",  # torch
)

app = typer.Typer(
    name="compressor",
    help="Distil a text classifier, export it to ONNX, quantise it, prove it still says the same, and serve it.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
)
for command in (
    demo.demo, run.run, teach.teach, distill.distill, compare.compare, export.export, benchmark.benchmark,
    report.report, verify.verify, predict.predict, serve.serve, key.key, recipe.recipe, doctor.doctor,
):  # fmt: skip
    app.command()(command)


def run_app() -> None:
    """Entry point of the console script."""
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s: %(message)s", stream=sys.stderr)
    try:
        app()
    except (UserError, GateFailed) as error:
        _fail(str(error), error.exit_code)
    except ModuleNotFoundError as error:
        _fail(*_explain_missing(error))
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(0)
    except SystemExit as stop:
        if stop.code == _INTERRUPTED:  # typer ends so, and silently, on Ctrl-C
            _fail("stopped; the same command continues where it was", _INTERRUPTED)
        raise
    except Exception as error:  # noqa: BLE001 - the outermost place, where every error gets its exit code
        if _is_full_disk(error):
            _fail(
                f"the disk is full or a size limit was reached ({error}). Free some space and give the same command "
                "again: finished stages are kept.",
                UserError.exit_code,
            )
        traceback.print_exc()
        _fail(
            f"this is a fault of compressor ({type(error).__name__}). Please report it with the lines above.",
            1,
        )


def _fail(message: str, code: int) -> NoReturn:
    Console(stderr=True, soft_wrap=True, highlight=False).print(f"error: {message}", style="red", markup=False)
    sys.exit(code)


def _explain_missing(error: ModuleNotFoundError) -> tuple[str, int]:
    module = (error.name or "").split(".")[0]
    if module in _TRAIN_MODULES:
        return str(MissingExtraError(module, "train")), UserError.exit_code
    if module == "onnxruntime":
        return str(MissingExtraError(module, "cpu")), UserError.exit_code
    traceback.print_exception(error)
    return f"the package '{module}' is missing. Install compressor-toolchain again.", 1


def _is_full_disk(error: BaseException) -> bool:
    """Whether this error, or one it came from, says that nothing more can be written.

    torch and safetensors wrap the operating system's error in their own types.
    """
    seen: BaseException | None = error
    while seen is not None:
        if isinstance(seen, OSError) and seen.errno in _FULL_DISK:
            return True
        if any(words in str(seen).lower() for words in _FULL_DISK_WORDS):
            return True
        seen = seen.__cause__ or seen.__context__
    return False
