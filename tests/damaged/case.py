"""What every kind of damaged input is made with: a case, and damage to the bytes of a file."""

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Any


@dataclass
class Case:
    """An input in the working directory, while it is made."""

    rng: random.Random
    commands: list[list[str]] = field(default_factory=list)
    """The command lines that are tried on it, one after another."""
    damages: list[str] = field(default_factory=list)
    """What was done to it, in this order."""

    def damage(self, kinds: Sequence[Callable[..., Any]], *arguments: Any) -> Any:
        """Apply one of several kinds of damage, and remember its name."""
        kind = self.rng.choice(kinds)
        self.damages.append(kind.__name__)
        return kind(self.rng, *arguments)

    def damage_file(self, file: Path, kinds: Sequence[Callable[[Random, bytes], bytes]]) -> None:
        """Damage the bytes of a file."""
        file.write_bytes(self.damage(kinds, file.read_bytes()))


def truncated(rng: Random, data: bytes) -> bytes:
    return data[: rng.randrange(len(data) + 1)]


def flipped(rng: Random, data: bytes) -> bytes:
    changed = bytearray(data)
    for _ in range(rng.choice([1, 2, 8, 64]) if data else 0):
        changed[rng.randrange(len(changed))] = rng.randrange(256)
    return bytes(changed)


def _span(rng: Random, data: bytes) -> tuple[int, int]:
    start, end = sorted(rng.randrange(len(data) + 1) for _ in range(2))
    return start, end


def zeroed(rng: Random, data: bytes) -> bytes:
    start, end = _span(rng, data)
    return data[:start] + bytes(end - start) + data[end:]


def cut_out(rng: Random, data: bytes) -> bytes:
    start, end = _span(rng, data)
    return data[:start] + data[end:]


def repeated(rng: Random, data: bytes) -> bytes:
    start, end = _span(rng, data)
    return data[:end] + data[start:]


def inserted(rng: Random, data: bytes) -> bytes:
    place = rng.randrange(len(data) + 1)
    return data[:place] + rng.randbytes(rng.choice([1, 4, 100])) + data[place:]


def appended(rng: Random, data: bytes) -> bytes:
    return data + rng.randbytes(rng.choice([1, 8, 1000]))


def emptied(rng: Random, data: bytes) -> bytes:
    return b""


def noise(rng: Random, data: bytes) -> bytes:
    return rng.randbytes(rng.choice([1, 10, 1000]))


BYTES = truncated, flipped, zeroed, cut_out, repeated, inserted, appended, emptied, noise
