"""keepq.Queue: queue.Queue's interface, over threads, processes and their deaths."""

from __future__ import annotations

import importlib
import itertools
import multiprocessing
import os
import pickle
import queue
import subprocess
import sys
import threading
import time
import types
import unittest
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import keepq
import pytest

cpython: Any
try:
    # CPython's own tests of queue.Queue, where they are installed.
    cpython = importlib.import_module("test.test_queue")
except ImportError:
    cpython = None

Run = Callable[..., subprocess.Popen[str]]

# Gets an item, says what it is, and does with it what its input says.
GETTER = """
import sys, keepq
q = keepq.Queue(sys.argv[1], codec="json")
for line in sys.stdin:
    if line == "get\\n":
        print(q.get(timeout=30), flush=True)
    elif line == "done\\n":
        q.task_done()
        print("done", flush=True)
    elif line == "close\\n":
        q.close()
        print("closed", flush=True)
"""

# Puts until the queue is full, as soon as its input says so; says how many went in.
FILLER = """
import sys, keepq
q = keepq.Queue(sys.argv[1], maxsize=20)
print("ready", flush=True)
sys.stdin.readline()
n = 0
try:
    while n < 1000:
        q.put_nowait(b"x")
        n += 1
except keepq.Full:
    print(n, flush=True)
"""


@pytest.fixture
def q(path: Path) -> Iterator[keepq.Queue[Any]]:
    """An open queue of JSON values."""
    with keepq.Queue[Any](path, codec="json") as opened:
        yield opened


def tell(child: subprocess.Popen[str], what: str) -> str:
    """Says something to a child, and gives what it answers."""
    assert child.stdin is not None and child.stdout is not None and child.stderr is not None
    child.stdin.write(what + "\n")
    child.stdin.flush()
    answer = child.stdout.readline()
    assert answer, child.stderr.read()
    return answer.strip()


if cpython is not None:

    class TestAsCPythonTestsQueue(cpython.QueueTest, unittest.TestCase):  # type: ignore[misc]
        """Every test that this Python has for queue.Queue."""

        def setUp(self) -> None:
            self.queue = types.SimpleNamespace(Queue=None, Full=queue.Full, Empty=queue.Empty)
            self.queue.ShutDown = keepq.ShutDown
            super().setUp()
            self.type2test = self.make

        @pytest.fixture(autouse=True)
        def place(self, tmp_path: Path) -> None:
            """Every queue of a test is a store of its own."""
            names = itertools.count()

            # Its tests look at the name of the class.
            class Queue(keepq.Queue[Any]):
                def __init__(self, maxsize: int = 0) -> None:
                    place = tmp_path / str(next(names))
                    super().__init__(place, maxsize=maxsize, codec="json", flush="async")

            self.make = Queue


def test_items_come_out_in_order_as_they_went_in(q: keepq.Queue[Any]) -> None:
    items = [1, "two", None, [3.5, {"four": True}], ""]
    for item in items:
        q.put(item)
    assert q.qsize() == 5 and not q.empty() and not q.full()
    assert [q.get() for _ in items] == items
    assert q.empty() and q.unfinished_tasks == 5
    for _ in items:
        q.task_done()
    q.join()
    with pytest.raises(ValueError, match=r"^task_done\(\) called too many times$"):
        q.task_done()


def test_without_a_codec_items_are_bytes(path: Path) -> None:
    with keepq.Queue[Any](path) as q:
        for item in (b"a", bytearray(b"b"), memoryview(b"c")):
            q.put(item)
        for wrong in ("text", 1, None):
            with pytest.raises(TypeError):
                q.put(wrong)
        got = [q.get() for _ in range(3)]
        assert got == [b"a", b"b", b"c"] and {type(item) for item in got} == {bytes}
        assert q.empty()


def test_what_a_codec_cannot_express_is_not_put(q: keepq.Queue[Any]) -> None:
    with pytest.raises(TypeError):
        q.put(object())
    assert q.empty()
    with pytest.raises(keepq.InvalidArgument):
        keepq.Queue("never made", codec="yaml")  # type: ignore[arg-type]
    assert not os.path.exists("never made")


def test_the_exceptions_are_those_of_queue_and_of_keepq(path: Path) -> None:
    with keepq.Queue[bytes](path, maxsize=1) as q:
        with pytest.raises(queue.Empty) as empty:
            q.get_nowait()
        assert isinstance(empty.value, keepq.Empty)
        q.put(b"x")
        with pytest.raises(queue.Full) as full:
            q.put_nowait(b"y")
        assert isinstance(full.value, keepq.Full)
        for call in (lambda: q.get(timeout=-1), lambda: q.put(b"y", timeout=-1)):
            with pytest.raises(ValueError, match="non-negative"):
                call()
        # As in queue.Queue the time is not looked at where it makes no difference.
        assert q.get(block=False, timeout=-1) == b"x"
        q.shutdown()
        with pytest.raises(keepq.ShutDown) as shut:
            q.get()
        if sys.version_info >= (3, 13):
            assert isinstance(shut.value, queue.ShutDown)


def test_a_time_out_is_waited_for_and_not_longer(path: Path) -> None:
    with keepq.Queue[bytes](path, maxsize=1) as q:
        for call, error in (
            (lambda: q.get(timeout=0.25), queue.Empty),
            (lambda: q.put(b"y", timeout=0.25), queue.Full),
        ):
            start = time.monotonic()
            with pytest.raises(error):
                call()
            assert 0.25 <= time.monotonic() - start < 60
            q.put(b"x", block=False) if q.empty() else None


def test_room_is_seen_at_once_by_a_put_that_waits(path: Path) -> None:
    with keepq.Queue[bytes](path, maxsize=2) as q, ThreadPoolExecutor() as pool:
        q.put(b"a")
        q.put(b"b")
        waiting = [pool.submit(q.put, b"c", timeout=30) for _ in range(3)]
        for _ in range(5):
            assert q.qsize() <= 2
            q.get(timeout=30)
        for put in waiting:
            put.result(30)
        assert q.qsize() == 0


def test_threads_never_exceed_maxsize_together(path: Path) -> None:
    with keepq.Queue[bytes](path, maxsize=7, flush="async") as q, ThreadPoolExecutor(8) as pool:

        def put(_: int) -> int:
            try:
                q.put_nowait(b"x")
            except queue.Full:
                return 0
            return 1

        assert sum(pool.map(put, range(50))) == 7
        assert q.qsize() == 7 and q.full()


def test_processes_exceed_maxsize_by_less_than_their_number(path: Path, run_python: Run) -> None:
    keepq.Queue[bytes](path).close()
    children = [run_python(FILLER, path) for _ in range(3)]
    for child in children:
        assert child.stdout is not None and child.stdout.readline() == "ready\n"
    for child in children:
        assert child.stdin is not None
        child.stdin.write("go\n")
        child.stdin.flush()
    went_in = [int(child.communicate(timeout=60)[0]) for child in children]
    with keepq.Queue[bytes](path, maxsize=20) as q:
        assert 20 <= sum(went_in) == q.qsize() <= 22
        assert q.full()


def test_task_done_is_for_the_oldest_item_of_the_thread_then_of_the_process(
    path: Path, q: keepq.Queue[Any]
) -> None:
    for n in range(4):
        q.put(n)
    with ThreadPoolExecutor(1) as other:
        assert q.get() == 0
        assert [other.submit(q.get).result(30) for _ in range(2)] == [1, 2]
        assert q.get() == 3
        other.submit(q.task_done).result(30)  # 1: its own oldest, not 0
        q.task_done()  # 0
        q.task_done()  # 3
        q.task_done()  # 2: the other thread's
    q.put("end")
    q.close()
    with keepq.Queue[Any](path, codec="json") as again:
        assert again.get() == "end" and again.empty()


@pytest.mark.parametrize("done", [0, 1, 2])
def test_what_was_gotten_and_not_done_can_be_gotten_again_after_a_close(
    path: Path, q: keepq.Queue[Any], done: int
) -> None:
    q.put("a")
    q.put("b")
    assert [q.get(), q.get()] == ["a", "b"]
    for _ in range(done):
        q.task_done()
    q.close()
    with pytest.raises(keepq.Closed):
        q.put("c")
    with keepq.Queue[Any](path, codec="json") as again:
        assert again.qsize() == 2 - done
        assert [again.get(timeout=5) for _ in range(2 - done)] == ["a", "b"][done:]


def test_a_killed_process_gives_its_items_back(
    path: Path, q: keepq.Queue[Any], run_python: Run
) -> None:
    q.put("a")
    q.put("b")
    child = run_python(GETTER, path)
    assert tell(child, "get") == "a"
    assert tell(child, "done") == "done"
    assert tell(child, "get") == "b"
    with pytest.raises(queue.Empty):
        q.get_nowait()
    assert child.pid > 1
    child.kill()
    child.wait(30)
    assert q.get(timeout=60) == "b"
    q.task_done()
    q.join()


def test_an_item_is_kept_for_longer_than_its_lease(path: Path) -> None:
    with keepq.open(path) as kq:
        group = kq.group("queue", "queue", lease=2)
        with keepq.Queue[bytes](path) as q:
            q.put(b"a")
            assert q.get() == b"a"
            with pytest.raises(keepq.Empty):
                group.receive(timeout=5)
            q.task_done()
            q.join()
            assert group.poll() is None


def test_join_waits_for_other_processes(path: Path, q: keepq.Queue[Any], run_python: Run) -> None:
    child = run_python(GETTER, path)
    q.put("a")
    assert tell(child, "get") == "a"
    joined = threading.Thread(target=q.join)
    joined.start()
    assert q.empty() and q.unfinished_tasks == 1 and joined.is_alive()
    assert tell(child, "done") == "done"
    joined.join(30)
    assert not joined.is_alive()


def test_another_process_closes_and_leaves_its_item(
    path: Path, q: keepq.Queue[Any], run_python: Run
) -> None:
    child = run_python(GETTER, path)
    q.put("a")
    assert tell(child, "get") == "a"
    assert tell(child, "close") == "closed"
    assert q.get(timeout=60) == "a"


def test_an_item_that_does_not_decode_is_put_back(path: Path) -> None:
    with keepq.open(path) as kq:
        kq.group("queue", "queue", backoff=keepq.Backoff(first=0.01, jitter=0), max_attempts=3)
        kq.topic("queue").send(b"{no json")
    with keepq.Queue[Any](path, codec="json") as q:
        for _ in range(2):
            with pytest.raises(keepq.DecodeError, match="application/json"):
                q.get(timeout=60)
            assert q.unfinished_tasks == 1
        with pytest.raises(ValueError):
            q.task_done()
        with keepq.Queue[bytes](path) as reader:
            assert reader.get(timeout=60) == b"{no json"
            reader.task_done()
        assert q.unfinished_tasks == 0


@pytest.mark.parametrize("immediate", [False, True])
def test_a_shutdown_ends_puts_and_gets(q: keepq.Queue[Any], immediate: bool) -> None:
    q.put("left")
    assert not q.is_shutdown
    q.shutdown(immediate)
    assert q.is_shutdown
    for put in (lambda: q.put("x"), lambda: q.put_nowait("x"), lambda: q.put("x", timeout=1)):
        with pytest.raises(keepq.ShutDown):
            put()
    if not immediate:
        assert q.get() == "left"
        q.task_done()
    for get in (q.get, q.get_nowait, lambda: q.get(timeout=1)):
        with pytest.raises(keepq.ShutDown):
            get()
    with pytest.raises(ValueError):
        q.task_done()
    q.join()
    assert q.empty() and q.qsize() == 0


def test_an_immediate_shutdown_removes_nothing(path: Path, q: keepq.Queue[Any]) -> None:
    for item in ("a", "b", "c"):
        q.put(item)
    assert q.get() == "a"
    q.shutdown(immediate=True)
    assert q.empty() and q.unfinished_tasks == 1, "what it has gotten is still to be done"
    q.task_done()
    q.join()
    with keepq.Queue[Any](path, codec="json") as other:
        assert [other.get(), other.get()] == ["b", "c"]


@pytest.mark.parametrize("immediate", [False, True])
def test_a_shutdown_wakes_who_waits(path: Path, immediate: bool) -> None:
    full = keepq.Queue[bytes](path, topic="full", maxsize=1)
    empty = keepq.Queue[bytes](path, topic="empty")
    full.put(b"x")
    with full, empty, ThreadPoolExecutor() as pool:
        waiting: list[Future[Any]] = [pool.submit(full.put, b"y"), pool.submit(empty.get)]
        joins = pool.submit(full.join)
        full.shutdown(immediate)
        empty.shutdown(immediate)
        for call in waiting:
            with pytest.raises(keepq.ShutDown):
                call.result(30)
        if not immediate:
            assert full.get() == b"x"
            full.task_done()
        joins.result(30)


def test_a_shutdown_is_for_one_handle(path: Path, q: keepq.Queue[Any]) -> None:
    q.shutdown()
    with keepq.Queue[Any](path, codec="json") as other:
        other.put("x")
        assert q.get() == "x"


def _get_and_put(q: keepq.Queue[Any]) -> None:
    q.put(["from the child", q.get(timeout=30)])
    q.task_done()
    q.close()


@pytest.mark.parametrize("way", ["fork", "spawn", "forkserver"])
def test_a_queue_goes_to_other_processes(q: keepq.Queue[Any], way: str) -> None:
    q.put("held")
    assert q.get() == "held"
    q.put("for the child")
    context: Any = multiprocessing.get_context(way)
    child = context.Process(target=_get_and_put, args=(q,))
    child.start()
    child.join(60)
    assert child.exitcode == 0
    assert q.get(timeout=30) == ["from the child", "for the child"]
    # The fork took nothing away from the parent.
    q.task_done()
    q.task_done()
    q.join()


def test_pickled_it_is_its_arguments(path: Path) -> None:
    with keepq.Queue[Any](path, topic="t", group="g", maxsize=3, codec="str") as q:
        q.put("x")
        with pickle.loads(pickle.dumps(q)) as again:
            assert (again.maxsize, again.get()) == (3, "x")
        assert repr(q) == repr(again)


def test_many_threads_get_each_item_once(path: Path) -> None:
    with keepq.Queue[Any](path, codec="json", flush="async", maxsize=10) as q:
        seen: list[int] = []

        def work() -> None:
            while (item := q.get(timeout=60)) is not None:
                seen.append(item)
                q.task_done()
            q.task_done()

        workers = [threading.Thread(target=work) for _ in range(4)]
        for worker in workers:
            worker.start()
        for n in range(200):
            q.put(n, timeout=60)
        for _ in workers:
            q.put(None)
        q.join()
        for worker in workers:
            worker.join(30)
        assert sorted(seen) == list(range(200))
