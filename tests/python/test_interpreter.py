"""The interpreter: Ctrl-C in every wait, the GIL, exits, subinterpreters, what an import costs."""

from __future__ import annotations

import _thread
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import keepq
import pytest
from conftest import soon

Run = Callable[..., subprocess.Popen[str]]


@pytest.fixture(autouse=True)
def ctrl_c() -> Iterator[None]:
    """A run in the background begins with the signal ignored."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def interrupted(wait: Callable[[], object]) -> None:
    """The wait ends by Ctrl-C, long before it would end otherwise."""
    with pytest.raises(KeyboardInterrupt), soon(_thread.interrupt_main):
        wait()


def test_ctrl_c_ends_every_wait_for_a_message(kq: keepq.Store) -> None:
    group = kq.group("t", "g")
    interrupted(lambda: group.receive(timeout=60))
    interrupted(lambda: group.receive(timeout=60, detached=True))
    interrupted(group.receive)
    interrupted(lambda: group.receive_batch(5, timeout=60))
    interrupted(lambda: next(iter(group)))
    kq.topic("t").send(b"nothing is lost")
    assert group.receive(timeout=5).body == b"nothing is lost"


def test_ctrl_c_ends_every_wait_for_callbacks_and_room(path: Path) -> None:
    release, entered = threading.Event(), threading.Event()

    def hold(_: object) -> None:
        entered.set()
        release.wait(60)

    kq = keepq.open(path, max_in_flight=1)
    topic = kq.topic("t")
    future = topic.send_async(b"a", on_success=hold)
    assert entered.wait(60)
    interrupted(lambda: topic.send_async(b"b", timeout=60))
    interrupted(lambda: kq.flush(timeout=60))
    interrupted(kq.flush)
    interrupted(kq.close)
    with pytest.raises(keepq.Closed):
        topic.send(b"c")
    release.set()
    kq.close()
    assert future.result().durable


def test_a_signal_handler_that_raises_ends_a_wait_and_gives_back_what_came(
    kq: keepq.Store,
) -> None:
    topic, group = kq.topic("t"), kq.group("t", "g")

    def handler(*_: object) -> None:
        topic.send(b"x")
        raise LookupError("on purpose")

    before = signal.signal(signal.SIGUSR1, handler)
    try:
        main = threading.main_thread().ident
        assert main is not None
        with pytest.raises(LookupError), soon(lambda: signal.pthread_kill(main, signal.SIGUSR1)):
            group.receive(timeout=60)
    finally:
        signal.signal(signal.SIGUSR1, before)
    assert group.receive(timeout=5).attempt in (1, 2)


SUBINTERPRETER = """
try:
    import _interpreters as interpreters
except ImportError:
    import _xxsubinterpreters as interpreters
{before}
code = '''
try:
    import keepq
except ImportError as error:
    print(error, flush=True)
'''
where = interpreters.create()
run = getattr(interpreters, "exec", None) or interpreters.run_string
run(where, code)
{after}
"""


@pytest.mark.parametrize(("before", "after"), [("import keepq", ""), ("", "import keepq")])
def test_a_subinterpreter_is_refused_in_words(run_python: Run, before: str, after: str) -> None:
    child = run_python(SUBINTERPRETER.format(before=before, after=after))
    out, error = child.communicate(timeout=60)
    assert "keepq works in the main interpreter only" in out, error
    assert child.returncode == 0, error


def test_an_import_loads_only_what_every_program_needs(run_python: Run) -> None:
    code = """
import sys
before = set(sys.modules)
import keepq
late = ["asyncio", "concurrent.futures", "dataclasses", "inspect", "json", "logging",
        "multiprocessing", "pickle", "re", "socket", "typing"]
print([name for name in late if name in set(sys.modules) - before])
"""
    out, error = run_python(code).communicate(timeout=60)
    assert out == "[]\n", error


def test_what_is_loaded_later_is_there_all_the_same() -> None:
    for name in keepq.__all__:
        assert getattr(keepq, name) is not None
    assert keepq.Msg is keepq.Msg
    with pytest.raises(AttributeError, match="nothing_like_this"):
        keepq.nothing_like_this  # noqa: B018


def test_the_module_says_its_version() -> None:
    assert keepq.__version__.count(".") == 2
    assert sys.version_info >= (3, 11)
