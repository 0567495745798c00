"""`keepq worker module:app`: runs a keepq.Worker that a module has."""

from __future__ import annotations

import argparse
import logging
import os
import sys
from collections.abc import Sequence
from importlib import import_module

from ._errors import Error
from ._worker import Worker

_OK, _FAILED, _USAGE = 0, 1, 2


def main(arguments: Sequence[str]) -> int:
    """Runs the command with the arguments after `worker`; returns its exit code.

    0: stopped, and all that had begun was finished. 1: it failed, or some was given back. 2: wrong
    arguments, no such module or application.
    """
    given = _parser().parse_args(arguments)
    logging.basicConfig(
        level=given.log_level.upper(),
        format="%(asctime)s %(levelname)-7s %(name)s [%(threadName)s] %(message)s",
        stream=sys.stderr,
    )
    sys.path.insert(0, os.path.abspath(given.app_dir))
    try:
        worker = load(given.app)
    except LookupError as error:
        print(f"keepq worker: {error.args[0]}", file=sys.stderr)
        return _USAGE
    if given.store is not None:
        worker.path = os.path.abspath(given.store)
    if given.drain_timeout is not None:
        worker.drain_timeout = given.drain_timeout
    try:
        finished = worker.run(concurrency=given.concurrency)
    except (Error, ValueError) as error:
        print(f"keepq worker: {error}", file=sys.stderr)
        return _FAILED
    if not finished:
        # Python would wait for threads that handlers have started, and those may never end.
        logging.shutdown()
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(_FAILED)
    return _OK


def load(name: str) -> Worker:
    """The worker with a name like `module:attribute`. Raises LookupError with what is wrong; what
    the module itself raises goes through."""
    module_name, colon, path = name.partition(":")
    if not module_name or (colon and not path):
        raise LookupError(f"{name!r} is no name like module:app")
    try:
        found: object = import_module(module_name)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{module_name}.".startswith(f"{error.name}."):
            raise
        raise LookupError(f"there is no module {module_name!r} in {os.getcwd()!r}") from error
    for part in (path or "app").split("."):
        if not hasattr(found, part):
            raise LookupError(f"the module {module_name!r} has no {path or 'app'!r}")
        found = getattr(found, part)
    if not isinstance(found, Worker):
        raise LookupError(f"{name!r} is a {type(found).__name__}, not a keepq.Worker")
    return found


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="keepq worker",
        description="Runs a keepq.Worker until SIGTERM or SIGINT; a second one stops it at once.",
    )
    parser.add_argument("app", metavar="module[:app]", help="where the worker is; app if left out")
    parser.add_argument("--store", metavar="DIR", help="the store, instead of the worker's own")
    parser.add_argument(
        "--concurrency",
        type=_positive,
        metavar="N",
        help="messages each handler works on at a time, instead of its own number",
    )
    parser.add_argument(
        "--drain-timeout",
        type=_seconds,
        metavar="SECONDS",
        help="how long a stop waits for handlers that run, instead of the worker's own time",
    )
    parser.add_argument(
        "--log-level",
        choices=["debug", "info", "warning", "error", "critical"],
        default="info",
        help="what is logged to standard error (default: info)",
    )
    parser.add_argument(
        "--app-dir", default=".", metavar="DIR", help="where modules are looked for (default: here)"
    )
    return parser


def _positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError("1 or more")
    return number


def _seconds(text: str) -> float:
    seconds = float(text)
    if not 0 <= seconds < float("inf"):
        raise argparse.ArgumentTypeError("0 or more")
    return seconds
