"""Handles in other processes: forked children, and pickles."""

from __future__ import annotations

import multiprocessing
import os
import pickle
import subprocess
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import keepq
import pytest

Run = Callable[..., subprocess.Popen[str]]

# What every child below begins with: an open store, handles that were used, and a report of what
# comes of a call in the child.
PREAMBLE = """
import os, sys, threading, warnings, keepq
# Python 3.12 and later warns of forks beside other threads, and the engine has some.
warnings.filterwarnings("ignore", message=".*fork", category=DeprecationWarning)
kq = keepq.open(sys.argv[1])
topic, group = kq.topic("t"), kq.group("t", "g", lease=600)
def got(call):
    try:
        return repr(call())
    except BaseException as error:
        return type(error).__name__
def child(body):
    sys.stdout.flush()
    pid = os.fork()
    if pid == 0:
        try:
            body()
            sys.stdout.flush()
        finally:
            os._exit(0)
    assert os.waitpid(pid, 0)[1] == 0
"""


def run(run_python: Run, path: Path, code: str) -> list[str]:
    """Runs the preamble and this; gives the lines it printed."""
    child = run_python(PREAMBLE + code, path)
    out, error = child.communicate(timeout=60)
    assert child.returncode == 0, error
    assert error == ""
    return out.splitlines()


def test_a_forked_child_opens_its_handles_anew(path: Path, run_python: Run) -> None:
    lines = run(
        run_python,
        path,
        """
topic.send(b"from the parent")
os.chdir("/")
def body():
    print(topic.send(b"from the child").seq)
    print(group.receive(timeout=5).body)
    print(topic.send_async(b"async").result(10).seq)
    print(len(kq.topic("t")), kq.stats().members)
    child(lambda: print(topic.send(b"from a grandchild").seq))
    kq.close()
    print(got(lambda: topic.send(b"x")))
child(body)
print(topic.send(b"parent again").seq)
""",
    )
    assert lines == ["1", "b'from the parent'", "2", "3 2", "3", "Closed", "4"]


def test_messages_and_producers_of_the_parent_are_not_the_childs(
    path: Path, run_python: Run
) -> None:
    lines = run(
        run_python,
        path,
        """
topic.send(b"x")
producer, msg = kq.producer("p"), group.receive(timeout=5)
producer.send("t", b"y")
def body():
    print(got(msg.ack), got(lambda: msg.nack(0)), got(lambda: msg.extend(1)))
    print(got(lambda: group.ack_many([msg])), msg.body)
    print(got(lambda: producer.send("t", b"z")), got(lambda: producer.send_async("t", b"z")))
    print(got(lambda: producer.next_seq))
    kq.ack(msg.receipt)
child(body)
print(got(msg.ack), producer.send("t", b"z").seq)
""",
    )
    assert lines == [
        "ForkedHandle ForkedHandle ForkedHandle",
        "ForkedHandle b'x'",
        "ForkedHandle ForkedHandle",
        "ForkedHandle",
        "LeaseLost 2",
    ]


def test_what_a_parent_sent_is_told_to_the_parent_only(path: Path, run_python: Run) -> None:
    lines = run(
        run_python,
        path,
        """
import concurrent.futures
block, entered = threading.Event(), threading.Event()
def hold(result):
    entered.set()
    block.wait(60)
first = topic.send_async(b"a", on_success=hold)
entered.wait(60)
second = topic.send_async(b"b", on_success=lambda r: print("called in", os.getpid() == parent))
second.add_done_callback(lambda f: print("done in", os.getpid() == parent))
parent = os.getpid()
def body():
    print(got(lambda: second.result(10)), second.exception().outcome)
    second.add_done_callback(lambda f: print("told", f.done()))
    print(len(concurrent.futures.wait([first, second], 10).done))
child(body)
block.set()
kq.close()
print(second.result().seq)
""",
    )
    theirs = ["ForkedHandle maybe_stored", "told True", "2"]
    assert lines == [*theirs, "done in True", "called in True", "1"]


def test_a_child_that_leaves_takes_nothing_along(path: Path, run_python: Run) -> None:
    lines = run(
        run_python,
        path,
        """
import gc
ready = group.fileno()
msg = kq.topic("t").send(b"x") and group.receive(timeout=5)
def body():
    global topic, group, kq, msg
    print(ready != group.fileno() or "the same")
    kq.close()
    del topic, group, msg, kq
    gc.collect()
    print("gone")
child(body)
print(got(msg.ack), group.fileno() == ready)
""",
    )
    assert lines == ["True", "gone", "None True"]


def test_a_prefork_server_shares_what_it_opened_before(path: Path, run_python: Run) -> None:
    lines = run(
        run_python,
        path,
        """
topic.send_many([b"%d" % i for i in range(40)])
read, write = os.pipe()
workers = []
for _ in range(4):
    pid = os.fork()
    if pid == 0:
        while (msg := group.poll()) is not None:
            with msg:
                os.write(write, msg.body + b" ")
        kq.close()
        os._exit(0)
    workers.append(pid)
assert [os.waitpid(pid, 0)[1] for pid in workers] == [0] * 4
os.close(write)
print(sorted(map(int, os.read(read, 1 << 16).split())) == list(range(40)))
print(group.stats().in_flight, group.qsize())
""",
    )
    assert lines == ["True", "0 0"]


def test_handles_pickle_as_path_and_options(kq: keepq.Store, path: Path) -> None:
    topic = kq.topic("t", flush="async")
    backoff = keepq.Backoff(first=2, factor=3, max=50, jitter=0)
    group = kq.group("t", "g", lease=12.5, max_attempts=3, backoff=backoff, start="latest")
    again = pickle.loads(pickle.dumps({"kq": kq, "topic": topic, "group": group}))
    assert again["kq"].path == path.absolute()
    assert repr(again["topic"]) == repr(topic) and repr(again["group"]) == repr(group)
    assert not again["topic"].send(b"x").durable, "the flush mode belongs to the handle"
    with again["group"].receive(timeout=5) as msg:
        assert msg.body == b"x"
    again["kq"].close()
    with pytest.raises(keepq.Closed):
        again["topic"].send(b"x")
    topic.send(b"the other handle is open still")


def test_a_pickled_store_that_is_gone_is_not_made_again(path: Path, tmp_path: Path) -> None:
    with keepq.open(path, exist_ok=False) as kq:
        pickled = pickle.dumps(kq)
    pickle.loads(pickled).close()
    path.rename(tmp_path / "elsewhere")
    with pytest.raises(keepq.NotFound):
        pickle.loads(pickled)


def test_results_pickle_and_hash(kq: keepq.Store) -> None:
    sent = kq.topic("t").send(b"x")
    again = pickle.loads(pickle.dumps(sent))
    assert again == sent and hash(again) == hash(sent) and repr(again) == repr(sent)
    assert {sent, again} == {sent} and sent != kq.topic("t").send(b"x")
    with pytest.raises(keepq.InvalidArgument):
        keepq.SendResult("no id", 0, keepq.SendStatus.SEND_OK, True, False)


def test_what_cannot_move_does_not_pickle(kq: keepq.Store) -> None:
    kq.topic("t").send(b"x")
    for thing in (kq.group("t", "g").receive(timeout=5), kq.producer("p")):
        with pytest.raises(TypeError):
            pickle.dumps(thing)


def work(topic: keepq.Topic, group: keepq.Group, n: int) -> int:
    """Sends and receives in another process."""
    topic.send_many([b"%d" % n] * 5)
    for _ in range(5):
        with group.receive(timeout=30):
            pass
    return os.getpid()


@pytest.mark.parametrize("method", ["fork", "spawn", "forkserver"])
def test_handles_work_in_every_kind_of_process(kq: keepq.Store, method: str) -> None:
    topic, group = kq.topic("t"), kq.group("t", "g")
    context = multiprocessing.get_context(method)
    with ProcessPoolExecutor(2, mp_context=context) as pool:
        pids = list(pool.map(work, [topic] * 4, [group] * 4, range(4)))
    assert os.getpid() not in pids
    stats = group.stats()
    assert (stats.ready, stats.in_flight) == (0, 0)
