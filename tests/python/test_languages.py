"""Programs in Python, C and Rust share one group under SIGKILLs, and nothing is lost.

What was sent and what was worked on is kept in ledgers outside the store, a file for each life of a
process, so that a line that a kill cut short is the last one of its file.
"""

from __future__ import annotations

import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import keepq
import pytest

ROOT = Path(__file__).resolve().parents[2]
TARGET = ROOT / "target" / "debug"

KILLS = 40
WORKERS = ("python", "c", "rust")
# So many messages each of the workers has to have worked on before the senders end.
SHARE = 150

# Numbers its messages as a named producer, so that it goes on where the last life of it ended; it
# ends when the file "enough" is there.
SENDER = """
import os, sys, keepq
path, ledger, name, enough = sys.argv[1:]
ledger = os.open(ledger, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
with keepq.open(path) as kq:
    producer = kq.producer(name)
    while not os.path.exists(enough):
        n = producer.next_seq
        producer.send("work", b"%s-%d" % (name.encode(), n), seq=n)
        os.write(ledger, b"sent %s-%d\\n" % (name.encode(), n))
    os.write(ledger, b"end %s-%d\\n" % (name.encode(), producer.next_seq))
"""

# Notes what it has, and what was acked, as worker.c does.
WORKER = """
import os, sys, time, keepq
path, ledger = sys.argv[1:]
ledger = os.open(ledger, os.O_WRONLY | os.O_CREAT | os.O_APPEND)

def note(what, msg):
    os.write(ledger, b"%s %d %s\\n" % (what, time.monotonic_ns(), msg.body))

app = keepq.Worker(path)

@app.handler("work", group="workers", concurrency=3)
def handle(msg):
    note(b"got", msg)
    msg.ack()
    note(b"acked", msg)

sys.exit(0 if app.run() else 1)
"""


class Life:
    """One life of a process, and its ledger."""

    def __init__(self, kind: str, command: list[str], ledger: Path) -> None:
        self.kind = kind
        self.ledger = ledger
        # The command line has no ledger: what it puts out is one.
        out = ledger.open("wb") if kind == "rust" else subprocess.DEVNULL
        self.errors = ledger.with_suffix(".errors")
        with self.errors.open("wb") as errors:
            self.process = subprocess.Popen(command, stdout=out, stderr=errors)
        if not isinstance(out, int):
            out.close()

    def is_alive(self) -> bool:
        return self.process.poll() is None

    def kill(self) -> None:
        """SIGKILL, to a child that is ours and was not waited for."""
        assert self.process.pid > 1
        if self.is_alive():
            self.process.kill()
        self.process.wait(60)

    def lines(self) -> list[str]:
        """The whole lines of the ledger."""
        if not self.ledger.exists():
            return []
        whole, _, _cut = self.ledger.read_text().rpartition("\n")
        return whole.splitlines()


class Stage:
    """All lives of all processes."""

    def __init__(self, place: Path, worker: Path) -> None:
        self.store = place / "store.kq"
        self._ledgers = place / "ledgers"
        self._ledgers.mkdir()
        self._enough = place / "enough"
        python = [sys.executable, "-P", "-c"]
        cli = [str(TARGET / "keepq"), "recv", "work", "-g", "workers", "-o", "raw"]
        self._commands = {
            "sender-a": [*python, SENDER, str(self.store), "LEDGER", "a", str(self._enough)],
            "sender-b": [*python, SENDER, str(self.store), "LEDGER", "b", str(self._enough)],
            "python": [*python, WORKER, str(self.store), "LEDGER"],
            "c": [str(worker), str(self.store), "LEDGER"],
            "rust": [*cli, "--store", str(self.store)],
        }
        self.kinds = list(self._commands)
        self.lives: list[Life] = []
        self.now: dict[str, Life] = {}

    def start(self, kind: str) -> None:
        ledger = self._ledgers / f"{len(self.lives)}-{kind}"
        command = [str(ledger) if word == "LEDGER" else word for word in self._commands[kind]]
        self.now[kind] = Life(kind, command, ledger)
        self.lives.append(self.now[kind])

    def progress(self) -> int:
        """How much the ledgers have grown."""
        return sum(life.ledger.stat().st_size for life in self.lives if life.ledger.exists())

    def await_progress(self, size: int) -> None:
        """Until the ledgers have grown to this."""
        end = time.monotonic() + 120
        while self.progress() < size:
            self.check()
            assert time.monotonic() < end, "nothing goes on"
            time.sleep(0.001)

    def await_shares(self) -> None:
        """Until every worker has had its share."""
        end = time.monotonic() + 240
        while min((shares := self.shares()).values()) < SHARE:
            self.check()
            assert time.monotonic() < end, shares
            time.sleep(0.05)

    def shares(self) -> dict[str, int]:
        """How many messages each kind of worker has noted that it had."""
        counts = dict.fromkeys(WORKERS, 0)
        for life in self.lives:
            if life.kind in counts:
                counts[life.kind] += sum(not line.startswith("acked ") for line in life.lines())
        return counts

    def end_senders(self) -> None:
        """Lets the senders end after what they have in hand."""
        self._enough.touch()

    def is_done(self) -> bool:
        return all(not self.now[kind].is_alive() for kind in ("sender-a", "sender-b"))

    def check(self) -> None:
        """Nobody may have failed by itself."""
        for life in self.now.values():
            ended = life.process.poll()
            finished = life.kind.startswith("sender") and ended == 0 and self._enough.exists()
            assert ended is None or finished, (life.kind, ended, life.errors.read_text())


@pytest.fixture(scope="module")
def worker(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The worker in C; and the command line is built."""
    cargo = ["cargo", "build", "--quiet", "-p", "keepq-c", "-p", "keepq-cli"]
    subprocess.run(cargo, cwd=ROOT, check=True, timeout=900)
    program = tmp_path_factory.mktemp("c") / "worker"
    source = ROOT / "tests" / "python" / "languages" / "worker.c"
    flags = ["-std=c99", "-Wall", "-Wextra", "-Wpedantic", "-Werror", f"-I{ROOT / 'include'}"]
    link = [f"-L{TARGET}", "-lkeepq", f"-Wl,-rpath,{TARGET}"]
    subprocess.run(["cc", *flags, "-o", str(program), str(source), *link], check=True, timeout=120)
    return program


@pytest.fixture
def stage(tmp_path: Path, worker: Path) -> Iterator[Stage]:
    """The processes, none of which outlives the test."""
    made = Stage(tmp_path, worker)
    yield made
    for life in made.lives:
        life.kill()


def test_kills_of_programs_in_three_languages_lose_nothing(stage: Stage) -> None:
    seed = random.randrange(2**32)
    print(f"seed {seed}")
    chance = random.Random(seed)
    with keepq.open(stage.store) as kq:
        # A killed worker's messages come again at once, however often it happens.
        quick = keepq.Backoff(first=0.01, max=0.05)
        group = kq.group("work", "workers", max_attempts=1_000, backoff=quick)
        # Every worker is there before the first message, however long its start takes.
        for there, kind in enumerate(WORKERS, 2):
            stage.start(kind)
            while kq.stats().members < there:
                stage.check()
                time.sleep(0.01)
        for kind in stage.kinds:
            if kind not in WORKERS:
                stage.start(kind)
        for _ in range(KILLS):
            stage.await_progress(stage.progress() + chance.randrange(1, 3_000))
            kind = chance.choice(stage.kinds)
            stage.now[kind].kill()
            assert stage.now[kind].process.returncode == -9, kind
            stage.start(kind)
        stage.await_shares()
        stage.end_senders()
        finish(stage, group)
        stats = group.stats()
        assert (stats.ready, stats.in_flight, stats.delayed, stats.dead) == (0, 0, 0, 0)
        assert kq.verify().ok
    account(stage)


def finish(stage: Stage, group: keepq.Group) -> None:
    """Lets the senders come to their end and the workers to the end of the messages."""
    end = time.monotonic() + 240

    def left() -> int:
        stats = group.stats()
        return stats.ready + stats.in_flight + stats.delayed

    while not stage.is_done() or left():
        stage.check()
        assert time.monotonic() < end, "it does not come to an end"
        time.sleep(0.01)
    for kind in WORKERS:
        life = stage.now[kind]
        assert life.process.pid > 1 and life.is_alive()
        life.process.terminate()
        ended = life.process.wait(60)
        # One that was started a moment ago may not be there yet to be told.
        early = ended == -signal.SIGTERM and not life.lines()
        assert ended in (0, 3) or early, (kind, ended, life.errors.read_text())


def account(stage: Stage) -> None:
    """Compares the ledgers."""
    sent: set[str] = set()
    confirmed: list[str] = []
    got: set[str] = set()
    times: dict[str, list[int]] = {}
    acked: dict[str, int] = {}
    for life in stage.lives:
        for line in life.lines():
            what, *rest = line.split(" ")
            if life.kind == "rust":
                got.add(line)
            elif what == "end":
                # All numbers below were sent: there are no gaps in the numbers of a producer.
                name, _, count = rest[0].partition("-")
                sent |= {f"{name}-{n}" for n in range(int(count))}
            elif what == "sent":
                confirmed += rest
            elif what == "got":
                got.add(rest[1])
                times.setdefault(rest[1], []).append(int(rest[0]))
            else:
                assert what == "acked"
                acked[rest[1]] = int(rest[0])
    assert len(confirmed) == len(set(confirmed)) and set(confirmed) <= sent
    assert got == sent, (len(sent - got), "were lost;", len(got - sent), "were never sent")
    again = [body for body, when in acked.items() if any(t > when for t in times[body])]
    assert not again, "they came again after their ack had returned"
    doubt = len(sent - set(confirmed))
    print(f"{len(stage.lives)} lives, worked on {stage.shares()}, {doubt} in doubt")
