"""keepq.Worker: what handlers ask for is done, leases are kept, and an end loses nothing."""

from __future__ import annotations

import _thread
import asyncio
import logging
import signal
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import keepq
import pytest
from keepq import _worker

QUICK = keepq.Backoff(first=0.01, max=0.01, jitter=0)


class Running:
    """A worker that runs in a thread until the test ends."""

    def __init__(self, app: keepq.Worker) -> None:
        self.app = app
        self.result: bool | BaseException | None = None
        self.thread = threading.Thread(target=self._run)
        self.thread.start()

    def _run(self) -> None:
        try:
            self.result = self.app.run()
        except BaseException as error:
            self.result = error

    def stop(self) -> bool | BaseException | None:
        self.app.stop()
        self.thread.join(60)
        assert not self.thread.is_alive()
        return self.result


@pytest.fixture
def start() -> Iterator[Callable[[keepq.Worker], Running]]:
    """Starts workers that are stopped when the test ends."""
    started: list[Running] = []

    def begin(app: keepq.Worker) -> Running:
        started.append(Running(app))
        return started[-1]

    yield begin
    for running in started:
        running.stop()


class Events:
    """What happened, for tests that wait for it."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self.seen: list[Any] = []

    def add(self, what: Any) -> None:
        with self._changed:
            self.seen.append(what)
            self._changed.notify_all()

    def wait(self, count: int) -> list[Any]:
        """Waits for so many events."""
        with self._changed:
            assert self._changed.wait_for(lambda: len(self.seen) >= count, 60), self.seen
            return list(self.seen)


def is_empty(kq: keepq.Store, group: str = "g") -> bool:
    """Whether nothing is left for a group."""
    stats = kq.group("t", group).stats()
    return (stats.ready, stats.in_flight, stats.delayed) == (0, 0, 0)


Start = Callable[[keepq.Worker], Running]


def test_handlers_get_every_message_of_their_groups_once(
    kq: keepq.Store, path: Path, start: Start
) -> None:
    app = keepq.Worker(path)
    one, two = Events(), Events()

    @app.handler("t", group="g")
    def first(msg: keepq.Message) -> None:
        one.add(msg.body)

    @app.handler("t", group="h", concurrency=2)
    async def second(msg: keepq.Message) -> keepq.ConsumeStatus:
        await asyncio.sleep(0)
        two.add(msg.body)
        return keepq.SUCCESS

    bodies = [b"%d" % n for n in range(50)]
    kq.topic("t").send_many(bodies[:25])
    running = start(app)
    kq.topic("t").send_many(bodies[25:])
    assert sorted(one.wait(50)) == sorted(two.wait(50)) == sorted(bodies)
    assert running.stop() is True
    assert is_empty(kq, "g") and is_empty(kq, "h")
    assert first.__name__ == "first", "it is the function as it was"


def fails(msg: keepq.Message) -> None:
    raise RuntimeError("on purpose")


def exits(msg: keepq.Message) -> None:
    raise SystemExit(1)


def retries(msg: keepq.Message) -> keepq.ConsumeStatus:
    return keepq.RETRY_LATER


def retries_now(msg: keepq.Message) -> None:
    raise keepq.Retry(delay=0)


def gives_something(msg: keepq.Message) -> Any:
    return "done"


@pytest.mark.parametrize("asynchronous", [False, True], ids=["sync", "async"])
@pytest.mark.parametrize("failing", [fails, exits, retries, retries_now, gives_something])
def test_what_was_not_done_comes_again(
    kq: keepq.Store,
    path: Path,
    start: Start,
    caplog: pytest.LogCaptureFixture,
    failing: Callable[[keepq.Message], Any],
    asynchronous: bool,
) -> None:
    app, attempts = keepq.Worker(path), Events()

    def handle(msg: keepq.Message) -> Any:
        attempts.add(msg.attempt)
        return failing(msg) if msg.attempt < 3 else None

    async def handle_async(msg: keepq.Message) -> Any:
        return handle(msg)

    app.handler("t", group="g", backoff=QUICK)(handle_async if asynchronous else handle)
    kq.topic("t").send(b"x")
    running = start(app)
    assert attempts.wait(3) == [1, 2, 3]
    assert running.stop() is True
    assert is_empty(kq)
    logged = [record for record in caplog.records if record.levelno >= logging.ERROR]
    if failing in (retries, retries_now):
        assert not logged
    else:
        assert len(logged) == 2 and all(record.exc_info for record in logged)
        assert "handle" in logged[0].getMessage() and "seq 0" in logged[0].getMessage()


def test_a_rejected_message_is_a_dead_letter(kq: keepq.Store, path: Path, start: Start) -> None:
    app, seen = keepq.Worker(path), Events()

    @app.handler("t", group="g")
    def handle(msg: keepq.Message) -> None:
        seen.add(msg.body)
        # Longer than the engine takes: it is cut within a character.
        raise keepq.Reject("ä" * 1000)

    kq.topic("t").send(b"x")
    running = start(app)
    seen.wait(1)
    assert running.stop() is True
    assert kq.group("t", "g").stats().dead == 1 and is_empty(kq)


def test_a_message_that_the_handler_settled_is_left_alone(
    kq: keepq.Store, path: Path, start: Start, caplog: pytest.LogCaptureFixture
) -> None:
    app, seen = keepq.Worker(path), Events()

    @app.handler("t", group="g")
    def handle(msg: keepq.Message) -> None:
        if msg.body == b"ack":
            msg.ack()
        elif msg.body == b"reject":
            msg.reject("no good")
        else:
            msg.nack(60)
        seen.add(msg.body)

    kq.topic("t").send_many([b"ack", b"reject", b"nack"])
    running = start(app)
    seen.wait(3)
    assert running.stop() is True
    stats = kq.group("t", "g").stats()
    assert (stats.ready, stats.in_flight, stats.delayed, stats.dead) == (0, 0, 1, 1)
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]


@pytest.mark.parametrize("asynchronous", [False, True], ids=["sync", "async"])
def test_as_many_run_at_once_as_were_asked_for(
    kq: keepq.Store, path: Path, start: Start, asynchronous: bool
) -> None:
    app, began, ended = keepq.Worker(path), Events(), Events()
    go = threading.Event()

    def handle(msg: keepq.Message) -> None:
        began.add(msg.seq)
        assert go.wait(60)
        ended.add(msg.seq)

    async def handle_async(msg: keepq.Message) -> None:
        began.add(msg.seq)
        while not go.is_set():
            await asyncio.sleep(0.001)
        ended.add(msg.seq)

    app.handler("t", group="g", concurrency=3)(handle_async if asynchronous else handle)
    kq.topic("t").send_many([b"x"] * 7)
    start(app)
    began.wait(3)
    # The others are still there for other workers.
    others = kq.group("t", "g").receive_batch(10, timeout=60)
    assert [msg.seq for msg in others] == [3, 4, 5, 6]
    assert len(began.seen) == 3
    for msg in others:
        msg.nack(0)
    go.set()
    assert sorted(ended.wait(7)) == list(range(7))


def test_options_of_the_group_and_of_the_run_are_heeded(kq: keepq.Store, path: Path) -> None:
    app, seen = keepq.Worker(path, flush="async"), Events()

    @app.handler("t", group="g", concurrency=5, start="latest", max_attempts=3, ack_flush="sync")
    def handle(msg: keepq.Message) -> None:
        seen.add(msg.body)
        if msg.body == b"last":
            app.stop()

    kq.topic("t").send(b"before the group")
    app.stop()
    assert app.run(concurrency=1) is True
    kq.topic("t").send_many([b"a", b"b", b"last", b"after the stop"])
    assert app.run(concurrency=1) is True
    assert seen.seen == [b"a", b"b", b"last"]
    group = kq.group("t", "g")
    assert (group.config().max_attempts, group.config().ack_flush) == (3, "sync")
    assert group.receive(timeout=5).body == b"after the stop"


def test_a_stop_waits_for_what_runs_and_receives_nothing_more(
    kq: keepq.Store, path: Path, start: Start
) -> None:
    app, began = keepq.Worker(path), Events()
    go = threading.Event()

    @app.handler("t", group="g", concurrency=1)
    def handle(msg: keepq.Message) -> None:
        began.add(msg.body)
        assert go.wait(60)

    kq.topic("t").send_many([b"a", b"b"])
    running = start(app)
    began.wait(1)
    app.stop()
    running.thread.join(0.3)
    assert running.thread.is_alive()
    go.set()
    assert running.stop() is True
    assert began.seen == [b"a"]
    assert kq.group("t", "g").receive(timeout=5).body == b"b"


def test_a_handler_may_stop_its_worker(kq: keepq.Store, path: Path, start: Start) -> None:
    app = keepq.Worker(path)

    @app.handler("t", group="g")
    def handle(msg: keepq.Message) -> None:
        app.stop()

    kq.topic("t").send(b"x")
    running = start(app)
    running.thread.join(60)
    assert running.result is True
    assert is_empty(kq)


def test_a_stop_before_the_run_counts_and_a_worker_runs_again(
    kq: keepq.Store, path: Path, start: Start
) -> None:
    app, seen = keepq.Worker(path), Events()
    app.handler("t", group="g")(lambda msg: seen.add(msg.body))
    app.stop()
    assert app.run() is True
    kq.topic("t").send(b"x")
    running = start(app)
    assert seen.wait(1) == [b"x"]
    with pytest.raises(RuntimeError, match="runs already"):
        app.run()
    assert running.stop() is True


@pytest.mark.parametrize("asynchronous", [False, True], ids=["sync", "async"])
def test_what_does_not_finish_in_time_is_given_back_at_once(
    kq: keepq.Store, path: Path, start: Start, asynchronous: bool
) -> None:
    app, began, ended = keepq.Worker(path, drain_timeout=0.2), Events(), Events()
    go = threading.Event()

    def handle(msg: keepq.Message) -> None:
        began.add(msg.body)
        assert go.wait(60)
        ended.add("went on")

    async def handle_async(msg: keepq.Message) -> None:
        began.add(msg.body)
        try:
            await asyncio.Event().wait()
        finally:
            ended.add("cancelled")

    app.handler("t", group="g")(handle_async if asynchronous else handle)
    kq.topic("t").send(b"x")
    running = start(app)
    began.wait(1)
    before = time.monotonic()
    assert running.stop() is False
    assert time.monotonic() - before < 50
    again = kq.group("t", "g").receive(timeout=5)
    assert (again.body, again.attempt) == (b"x", 2)
    again.ack()
    go.set()
    # What the old handler does now changes nothing.
    assert ended.wait(1) == ["cancelled" if asynchronous else "went on"]
    assert is_empty(kq)


def test_a_lease_is_kept_while_its_handler_runs(kq: keepq.Store, path: Path, start: Start) -> None:
    app, began = keepq.Worker(path), Events()
    go = threading.Event()

    @app.handler("t", group="g", lease=2)
    def handle(msg: keepq.Message) -> None:
        began.add(msg.attempt)
        assert go.wait(60)

    kq.topic("t").send(b"x")
    running = start(app)
    began.wait(1)
    with pytest.raises(keepq.Empty):
        kq.group("t", "g").receive(timeout=5)
    go.set()
    assert running.stop() is True
    assert began.seen == [1] and is_empty(kq)


@pytest.mark.parametrize("codec", ["json", None], ids=["named", "by the header"])
@pytest.mark.parametrize("asynchronous", [False, True], ids=["sync", "async"])
def test_values_are_decoded_and_what_does_not_decode_is_a_dead_letter(
    kq: keepq.Store,
    path: Path,
    start: Start,
    caplog: pytest.LogCaptureFixture,
    codec: Any,
    asynchronous: bool,
) -> None:
    app, called, values = keepq.Worker(path, codec=codec), Events(), Events()

    def handle(msg: keepq.Message) -> None:
        called.add(msg.body)
        values.add(msg.value)

    async def handle_async(msg: keepq.Message) -> None:
        handle(msg)

    app.handler("t", group="g", concurrency=1)(handle_async if asynchronous else handle)
    kq.topic("t").send(b"{no json", headers={"content-type": b"application/json"})
    kq.topic("t", codec="json").send({"id": 1})
    running = start(app)
    assert values.wait(1) == [{"id": 1}]
    assert running.stop() is True
    # Who names a codec is not even called with what it cannot read.
    assert called.seen[:-1] == ([] if codec else [b"{no json"])
    assert kq.group("t", "g").stats().dead == 1 and is_empty(kq)
    [record] = [r for r in caplog.records if r.levelno >= logging.ERROR]
    assert "rejected" in record.getMessage() and "application/json" in record.getMessage()


def test_a_signal_that_ends_no_sleep_is_heard_all_the_same(kq: keepq.Store, path: Path) -> None:
    app = keepq.Worker(path)

    @app.handler("t", group="g")
    def handle(msg: keepq.Message) -> None:
        time.sleep(0.3)
        # As a signal that comes right before the main thread sleeps: it interrupts nothing.
        _thread.interrupt_main(signal.SIGTERM)

    kq.topic("t").send(b"x")
    late = threading.Timer(60, app.stop)
    late.start()
    try:
        assert app.run() is True
        assert late.is_alive(), "it was not heard"
    finally:
        late.cancel()
        late.join()
    assert is_empty(kq)


def test_errors_at_the_start_are_raised(path: Path) -> None:
    app = keepq.Worker(path, create=False)
    with pytest.raises(ValueError, match="no handlers"):
        app.run()
    app.handler("t", group="g", max_attempts=3)(fails)
    with pytest.raises(keepq.NotFound):
        app.run()
    with keepq.open(path) as kq:
        kq.group("t", "g", max_attempts=4)
        with pytest.raises(keepq.ConfigMismatch):
            app.run()
    for wrong in (
        lambda: app.handler("t", group="g", concurrency=0),
        lambda: keepq.Worker(path, drain_timeout=-1),
        lambda: keepq.Worker(path, codec="yaml"),  # type: ignore[arg-type]
        lambda: app.handler("t", group="g", codec="yaml"),  # type: ignore[arg-type]
    ):
        with pytest.raises(ValueError):
            wrong()


class Flaky:
    """A group or store in front of a real one, which fails as it is told."""

    def __init__(self, real: Any, errors: list[Any]) -> None:
        self._real = real
        self._errors = errors

    def __getattr__(self, name: str) -> Any:
        return getattr(self._real, name)

    def group(self, *args: Any, **options: Any) -> Any:
        return Flaky(self._real.group(*args, **options), self._errors)

    def receive_batch(self, *args: Any) -> Any:
        if self._errors:
            raise self._errors.pop(0)
        return self._real.receive_batch(*args)


def test_errors_of_the_store_are_logged_and_tried_again(
    kq: keepq.Store,
    path: Path,
    start: Start,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    errors: list[keepq.Error] = [
        keepq.StorageError("the disk is odd", number=201, errno=5),
        keepq.CorruptError("a message is damaged", number=205),
    ]
    opened = Events()

    def open_flaky(*args: Any, **options: Any) -> Any:
        opened.add("open")
        return Flaky(keepq.open(*args, **options), errors)

    monkeypatch.setattr(_worker, "open", open_flaky)
    app, seen = keepq.Worker(path), Events()
    app.handler("t", group="g")(lambda msg: seen.add(msg.body))
    kq.topic("t").send(b"x")
    running = start(app)
    assert seen.wait(1) == [b"x"]
    assert running.stop() is True
    assert [record.levelname for record in caplog.records] == ["ERROR", "ERROR"]
    assert "again in 0.1 s: the disk is odd" in caplog.text
    assert "again in 0.2 s: a message is damaged" in caplog.text
    assert opened.seen == ["open"]


@pytest.mark.parametrize(
    "failure",
    [keepq.StorageError("a flush failed", number=203), RuntimeError("a flush failed")],
    ids=["of the store", "unheard of"],
)
def test_a_store_that_cannot_go_on_is_opened_again(
    failure: Exception,
    kq: keepq.Store,
    path: Path,
    start: Start,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    failed = [failure]
    refused: list[keepq.Error] = [keepq.StorageError("still no disk", number=201)]
    opened = Events()

    def open_flaky(*args: Any, **options: Any) -> Any:
        opened.add("open")
        if len(opened.seen) == 2:
            raise refused.pop()
        return Flaky(keepq.open(*args, **options), failed)

    monkeypatch.setattr(_worker, "open", open_flaky)
    monkeypatch.setattr(_worker, "_FIRST_PAUSE", 0.05)
    app, seen = keepq.Worker(path), Events()
    app.handler("t", group="g")(lambda msg: seen.add(msg.body))
    kq.topic("t").send(b"x")
    running = start(app)
    assert seen.wait(1) == [b"x"]
    assert running.stop() is True
    assert len(opened.seen) == 3
    assert "a flush failed" in caplog.text and "still no disk" in caplog.text
