"""What the tests share: a store of their own each, and processes that cannot outlive a test."""

from __future__ import annotations

import asyncio
import contextlib
import inspect
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import keepq
import pytest
from hypothesis import HealthCheck, settings
from keepq import aio

# Time is no measure on a machine that is shared, and what failed is printed to be tried again.
settings.register_profile(
    "keepq",
    deadline=None,
    database=None,
    print_blob=True,
    suppress_health_check=[HealthCheck.too_slow],
)
settings.load_profile("keepq")


@pytest.hookimpl(tryfirst=True)
def pytest_pyfunc_call(pyfuncitem: pytest.Function) -> bool | None:
    """Runs `async def` tests on a loop of the fixture `loop`, with opened stores."""
    if not inspect.iscoroutinefunction(pyfuncitem.obj):
        return None
    given = {name: pyfuncitem.funcargs[name] for name in pyfuncitem._fixtureinfo.argnames}

    async def run() -> None:
        async with contextlib.AsyncExitStack() as stack:
            arguments: dict[str, Any] = {
                name: await stack.enter_async_context(value)
                if isinstance(value, aio.Opening)
                else value
                for name, value in given.items()
            }
            await pyfuncitem.obj(**arguments)

    loop: Any = pyfuncitem.funcargs["loop"]
    with asyncio.Runner(loop_factory=loop) as runner:
        runner.run(asyncio.wait_for(run(), 120))
    return True


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Where the test's store is, or will be."""
    return tmp_path / "test.kq"


@pytest.fixture
def kq(path: Path) -> Iterator[keepq.Store]:
    """An open store."""
    with keepq.open(path) as store:
        yield store


@contextlib.contextmanager
def soon(call: Callable[[], object]) -> Iterator[None]:
    """Calls this from another thread while the block waits, or is about to.

    Nothing tells that a thread waits within the engine; but however slow the machine is, the call
    comes after the block has begun, and not at all if that ends by itself before.
    """
    begun, ended = threading.Event(), threading.Event()

    def run() -> None:
        begun.wait()
        time.sleep(0.05)
        if not ended.is_set():
            call()

    thread = threading.Thread(target=run)
    thread.start()
    try:
        begun.set()
        yield
        ended.set()
    finally:
        thread.join(60)
        assert not thread.is_alive()


@pytest.fixture
def run_python() -> Iterator[Callable[..., subprocess.Popen[str]]]:
    """Starts Python processes: run_python(code, *arguments). They are killed when the test ends."""
    children: list[subprocess.Popen[str]] = []

    def run(code: str, *arguments: object) -> subprocess.Popen[str]:
        child = subprocess.Popen(
            [sys.executable, "-P", "-c", code, *map(str, arguments)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        children.append(child)
        return child

    yield run
    for child in children:
        if child.poll() is None:
            child.kill()
        child.communicate()
