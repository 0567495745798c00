"""What documents show is run: the README's Python, and the examples."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
EXAMPLES = ROOT / "examples" / "python"

# Arguments, and what an example prints, line by line.
EXPECTED: dict[str, tuple[list[str], list[str]]] = {
    "hello.py": (["s.kq"], ["on disk: True", 'received: {"id": 1} of user-42', "left: 0"]),
    "pipeline.py": (["s.kq", "300"], ["first: 0 outcomes: {'SEND_OK': 299}"]),
    "resume.py": (["s.kq", "lines.txt"], ["0 lines were there, 3 were sent"]),
    "worker.py": (
        ["s.kq"],
        [
            "done: 2",
            "done: 4",
            "given up after 3: 3 (",
            "given up after 1: five (five is no number)",
        ],
    ),
    "handlers.py": (
        ["s.kq"],
        ["billed order 1", "billed order 3", *(f"confirmed order {n}" for n in (1, 2, 3))],
    ),
    "jobs.py": (["s.kq"], [f"{n} * {n} = {n * n}" for n in (1, 2, 3)]),
    "asynchronous.py": (["s.kq"], [f"mail about order {n}" for n in (1, 2, 3)]),
    "loop.py": (
        ["s.kq"],
        ["orders -> something about orders", "returns -> something about returns"],
    ),
}


def run(arguments: list[str], where: Path) -> list[str]:
    """Runs Python in a directory of its own; gives the lines it printed."""
    done = subprocess.run(
        [sys.executable, "-P", "-W", "error", *arguments],
        cwd=where,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, ""), done.stderr
    return done.stdout.splitlines()


@pytest.mark.parametrize("name", sorted(path.name for path in EXAMPLES.glob("*.py")))
def test_an_example_does_what_it_says(name: str, tmp_path: Path) -> None:
    arguments, expected = EXPECTED[name]
    (tmp_path / "lines.txt").write_bytes(b"a\nb\nc\n")
    lines = run([str(EXAMPLES / name), *arguments], tmp_path)
    assert len(lines) == len(expected)
    for line, begins in zip(sorted(lines), sorted(expected), strict=True):
        assert line.startswith(begins)


def test_a_load_that_is_run_again_sends_nothing_twice(tmp_path: Path) -> None:
    (tmp_path / "lines.txt").write_bytes(b"a\nb\n")
    example = [str(EXAMPLES / "resume.py"), "s.kq", "lines.txt"]
    assert run(example, tmp_path) == ["0 lines were there, 2 were sent"]
    (tmp_path / "lines.txt").write_bytes(b"a\nb\nc\n")
    assert run(example, tmp_path) == ["2 lines were there, 1 were sent"]


def blocks(document: str) -> list[str]:
    """The Python of a document."""
    text = (ROOT / document).read_text()
    return re.findall(r"^```python\n(.*?)^```", text, re.MULTILINE | re.DOTALL)


@pytest.mark.parametrize("document", ["README.md"])
def test_the_python_of_a_document_runs(document: str, tmp_path: Path) -> None:
    found = blocks(document)
    assert found
    for number, block in enumerate(found):
        where = tmp_path / str(number)
        where.mkdir()
        run(["-c", block], where)
