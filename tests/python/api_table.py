"""The public interface, item by item, and the tests that use each.

Printed by `python tests/python/api_table.py`.

Made from the module itself and from the source of the tests: a name is used where a test says it, a
member where one says it of anything, a parameter where one gives it to a call of that name. So an
item without a test is seen; that a test is a good one is not.
"""

from __future__ import annotations

import ast
import inspect
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import keepq

HERE = Path(__file__).resolve().parent

# What a member is for a with statement, a loop or a function of Python's.
SPECIAL = {"__len__": "len", "__iter__": "for", "__enter__": "with", "__reduce__": "pickle"}

@dataclass(frozen=True)
class Item:
    """One thing that a program can say."""

    owner: str
    member: str = ""
    parameter: str = ""
    position: int | None = None
    """Of a parameter that may be given without its name."""

    def __str__(self) -> str:
        name = f"{self.owner}.{self.member}" if self.member else self.owner
        return f"{name}({self.parameter}=)" if self.parameter else name


def parameters(owner: str, member: str, function: object) -> Iterator[Item]:
    """The parameters of a function or method."""
    try:
        signature = inspect.signature(function)  # type: ignore[arg-type]
    except (TypeError, ValueError):
        return
    names = [p for p in signature.parameters.values() if p.name not in ("self", "cls")]
    for at, parameter in enumerate(names):
        if parameter.kind in (parameter.VAR_KEYWORD, parameter.VAR_POSITIONAL):
            continue
        position = None if parameter.kind is parameter.KEYWORD_ONLY else at
        yield Item(owner, member, parameter.name, position)


def members(owner: str, cls: type) -> Iterator[Item]:
    """The members of a class, and what they take."""
    made = inspect.isclass(cls) and issubclass(cls, BaseException)
    for name, value in vars(cls).items():
        if name in SPECIAL and not made:
            yield Item(owner, name)
        if name.startswith("_"):
            continue
        yield Item(owner, name)
        if callable(value):
            yield from parameters(owner, name, value)
    for name in getattr(cls, "__dataclass_fields__", ()):
        if name not in vars(cls):
            yield Item(owner, name)


def items() -> Iterator[Item]:
    """Everything public."""
    for name in keepq.__all__:
        yield Item(name)
        thing = getattr(keepq, name)
        if inspect.isclass(thing):
            yield from members(name, thing)
        elif callable(thing):
            yield from parameters("", name, thing)


class Uses(ast.NodeVisitor):
    """What the functions of a file use."""

    def __init__(self, file: str, into: dict[str, set[str]]) -> None:
        self.file = file
        self.into = into
        self.inside: list[str] = []

    def note(self, what: str) -> None:
        self.into[what].add(f"{self.file}::{self.inside[0]}" if self.inside else self.file)

    def visit_FunctionDef(self, node: ast.FunctionDef) -> None:
        self.inside.append(node.name)
        self.generic_visit(node)
        self.inside.pop()

    def visit_ClassDef(self, node: ast.ClassDef) -> None:
        self.inside.append(node.name)
        self.generic_visit(node)
        self.inside.pop()

    def visit_Attribute(self, node: ast.Attribute) -> None:
        self.note(f".{node.attr}")
        self.generic_visit(node)

    def visit_Call(self, node: ast.Call) -> None:
        name = getattr(node.func, "attr", getattr(node.func, "id", ""))
        for at in range(len(node.args)):
            self.note(f"{name}({at})")
        for keyword in node.keywords:
            self.note(f"{name}({keyword.arg}=)")
        if name in ("len", "dumps"):
            self.note(name)
        self.generic_visit(node)

    def visit_For(self, node: ast.For) -> None:
        self.note("for")
        self.generic_visit(node)

    def visit_With(self, node: ast.With) -> None:
        self.note("with")
        self.generic_visit(node)

    def visit_Constant(self, node: ast.Constant) -> None:
        # Options in a dict, given with **, and code that is run in another process.
        if isinstance(node.value, str):
            if node.value.isidentifier():
                self.note(f"(**{node.value})")
            elif "keepq" in node.value and "\n" in node.value:
                try:
                    self.visit(ast.parse(node.value))
                except SyntaxError:
                    pass


def uses() -> dict[str, set[str]]:
    """What is used, and by which functions."""
    found: dict[str, set[str]] = defaultdict(set)
    for path in sorted(HERE.glob("test_*.py")):
        Uses(path.name, found).visit(ast.parse(path.read_text()))
    return found


def tests_of(item: Item, found: dict[str, set[str]]) -> set[str]:
    """The tests that use an item."""
    name = item.member or item.owner
    if item.parameter:
        called = {f"{name}({item.parameter}=)"}
        if item.position is not None:
            called.add(f"{name}({item.position})")
        tests = set().union(*(found.get(call, set()) for call in called))
        return tests or found.get(f"(**{item.parameter})", set())
    if name in SPECIAL:
        plain = {"pickle": "dumps"}.get(SPECIAL[name], SPECIAL[name])
        return found.get(plain, set())
    # The fields of a dataclass are what it is made of, too.
    made = {f"{item.owner}({item.member}=)", f"(**{item.member})"} if item.member else set()
    known = [found.get(use, set()) for use in {f".{name}", *made}]
    return set().union(*known)


def table() -> list[tuple[Item, set[str]]]:
    """Each item with its tests."""
    found = uses()
    return [(item, tests_of(item, found)) for item in items()]


if __name__ == "__main__":
    for item, tests in table():
        some = ", ".join(sorted(tests)[:3])
        more = f" and {len(tests) - 3} more" if len(tests) > 3 else ""
        print(f"| `{item}` | {some}{more} |")
