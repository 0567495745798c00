"""What the tests share: a store of their own each, and processes that cannot outlive a test."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import keepq
import pytest
from hypothesis import settings

# Time is no measure on a machine that is shared, and what failed is printed to be tried again.
settings.register_profile("keepq", deadline=None, database=None, print_blob=True)
settings.load_profile("keepq")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Where the test's store is, or will be."""
    return tmp_path / "test.kq"


@pytest.fixture
def kq(path: Path) -> Iterator[keepq.Store]:
    """An open store."""
    with keepq.open(path) as store:
        yield store


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
