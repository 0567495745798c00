"""keepq.Worker in processes of its own: forked, spawned, and as `keepq worker`, with signals."""

from __future__ import annotations

import multiprocessing
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import keepq
import pytest

Run = Callable[..., subprocess.Popen[str]]


def is_empty(kq: keepq.Store) -> bool:
    """Whether nothing is left for the group."""
    stats = kq.group("t", "g").stats()
    return (stats.ready, stats.in_flight, stats.delayed) == (0, 0, 0)


def note(msg: keepq.Message) -> None:
    """A handler that other processes find by its name: it answers by a message."""
    with keepq.open(bytes(msg.headers["store"]).decode()) as kq:
        kq.topic("answers").send(msg.body)


@pytest.mark.parametrize("way", ["fork", "spawn"])
def test_a_worker_runs_in_other_processes(kq: keepq.Store, path: Path, way: str) -> None:
    app = keepq.Worker(path)
    app.handler("t", group="g")(note)
    context: Any = multiprocessing.get_context(way)
    child = context.Process(target=app.run)
    child.start()
    try:
        kq.topic("t").send(b"x", headers={"store": str(path).encode()})
        assert kq.group("answers", "g").receive(timeout=60).body == b"x"
        assert child.pid > 1
        child.terminate()
        child.join(60)
        assert child.exitcode == 0
        assert is_empty(kq)
    finally:
        child.kill()
        child.join(60)


# A module with a worker whose handler says what it does and waits for a file.
MODULE = """
import os, sys, time, keepq
app = keepq.Worker("here.kq")
class Inner: pass
inner = Inner()
inner.app = app
@app.handler("t", group="g", concurrency=4)
def handle(msg):
    print("began", msg.body.decode(), flush=True)
    while not os.path.exists(msg.body):
        time.sleep(0.01)
    print("ended", msg.body.decode(), flush=True)
"""

COMMAND = "import sys; from keepq.__main__ import main; sys.exit(main())"


@pytest.fixture
def command(tmp_path: Path, run_python: Run) -> Callable[..., subprocess.Popen[str]]:
    """Runs `keepq worker` with the module above."""
    (tmp_path / "shop.py").write_text(MODULE)

    def run(*arguments: object) -> subprocess.Popen[str]:
        return run_python(COMMAND, "worker", *arguments, "--app-dir", tmp_path)

    return run


def line_of(child: subprocess.Popen[str]) -> str:
    assert child.stdout is not None and child.stderr is not None
    line = child.stdout.readline()
    assert line, child.stderr.read()
    return line.strip()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize("name", ["shop:app", "shop", "shop:inner.app"])
def test_the_command_runs_a_worker_and_a_signal_drains_it(
    kq: keepq.Store,
    path: Path,
    tmp_path: Path,
    command: Run,
    number: signal.Signals,
    name: str,
) -> None:
    marker = tmp_path / "marker"
    kq.topic("t").send(str(marker).encode())
    child = command(name, "--store", path)
    assert line_of(child) == f"began {marker}"
    assert child.pid > 1
    child.send_signal(number)
    assert child.stderr is not None
    assert f"{number.name}: finishing what runs" in child.stderr.readline()
    kq.topic("t").send(b"not received any more")
    marker.touch()
    assert line_of(child) == f"ended {marker}"
    assert child.wait(60) == 0
    assert kq.group("t", "g").receive(timeout=5).body == b"not received any more"


def test_a_second_signal_gives_back_what_runs(
    kq: keepq.Store, path: Path, tmp_path: Path, command: Run
) -> None:
    kq.topic("t").send(str(tmp_path / "never made").encode())
    child = command("shop:app", "--store", path, "--drain-timeout", "600")
    line_of(child)
    assert child.pid > 1 and child.stderr is not None
    child.terminate()
    assert "finishing what runs" in child.stderr.readline()
    child.terminate()
    assert child.wait(60) == 1
    assert "giving back what runs" in child.stderr.readline()
    msg = kq.group("t", "g").receive(timeout=5)
    assert msg.attempt == 2


def test_a_handler_that_blocks_does_not_block_the_end(
    kq: keepq.Store, path: Path, tmp_path: Path, command: Run
) -> None:
    kq.topic("t").send(str(tmp_path / "never made").encode())
    child = command("shop:app", "--store", path, "--drain-timeout", "0.2", "--concurrency", "1")
    line_of(child)
    assert child.pid > 1
    child.terminate()
    assert child.wait(60) == 1
    assert kq.group("t", "g").receive(timeout=5).attempt == 2


@pytest.mark.parametrize(
    ("arguments", "code", "says"),
    [
        (["missing:app"], 2, "no module 'missing'"),
        (["shop:none"], 2, "no 'none'"),
        (["shop:keepq"], 2, "is a module, not a keepq.Worker"),
        ([":app"], 2, "no name like module:app"),
        (["shop:"], 2, "no name like module:app"),
        (["shop", "--concurrency", "0"], 2, "1 or more"),
        (["shop", "--drain-timeout", "-1"], 2, "0 or more"),
        (["shop", "--log-level", "loud"], 2, "invalid choice"),
        ([], 2, "required"),
        (["broken"], 1, "on purpose"),
        (["shop", "--store", "/dev/null/x"], 1, "keepq worker: "),
    ],
)
def test_the_command_says_what_is_wrong(
    tmp_path: Path, command: Run, arguments: list[str], code: int, says: str
) -> None:
    (tmp_path / "broken.py").write_text("raise RuntimeError('on purpose')")
    child = command(*arguments)
    _, error = child.communicate(timeout=60)
    assert child.returncode == code, error
    assert says in error
