"""Random bodies, the same for every entrant: letters and digits, because some peers take text only,
and random, because some compress."""

from __future__ import annotations

import random

_LETTERS = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
# How many different bodies there are before they repeat.
_KINDS = 4096


class Wrong(Exception):
    """What was received is not what was sent."""


class Bodies:
    """Bodies of one size, numbered."""

    def __init__(self, size: int) -> None:
        self.size = size
        draw = random.Random(size)
        kinds = [bytes(draw.choices(_LETTERS, k=size)) for _ in range(_KINDS)]
        # Twice, so that a slice never has to be put together.
        self._kinds = kinds + kinds

    def slice(self, first: int, count: int) -> list[bytes]:
        """So many bodies (at most 4,096) from this number on."""
        at = first % _KINDS
        return self._kinds[at : at + count]

    def one(self, number: int) -> bytes:
        """The body with this number."""
        return self._kinds[number % _KINDS]


def check(got: list[bytes], expected: list[bytes]) -> None:
    """Raises Wrong unless both are the same."""
    if got != expected:
        differs = (n for n, (a, b) in enumerate(zip(got, expected, strict=False)) if a != b)
        at = next(differs, min(len(got), len(expected)))
        raise Wrong(f"{len(got)} messages for {len(expected)}; the first that differs is {at}")
