"""Errors of keys and values in a configuration, a study file or a record: one line with the key, the value and what is allowed.

Refused                 what a user can mend (xceptlab.errors)
  FieldError            a value that its key does not allow
    MissingKey          a required key that is not there
    UnknownKey          a key that does not exist
    Misread             text that YAML reads as another value than its reader does
"""

import difflib
from collections.abc import Iterable, Mapping
from dataclasses import is_dataclass
from typing import Any

from xceptlab.errors import Refused
from xceptlab.text import shortened

LONGEST_VALUE = 100
"""Characters of a value that an error shows."""
LONGEST_KEY = 100
"""Characters of a key that an error shows."""
LONGEST_LIST = 300
"""Characters of a list of all known keys that an error shows."""

SYNONYMS = {
    "learning_rate": "lr",
    "max_epochs": "epochs",
    "num_epochs": "epochs",
    "bs": "batch_size",
    "wd": "weight_decay",
    "scheduler": "schedule",
    "amp": "precision",
    "activation": "intermediate",
    "blocks": "middle_blocks",
    "dataset": "name",
    "img_size": "size",
    "image_size": "size",
    "num_workers": "workers",
    "device": "accelerator",
}
"""What fields are called elsewhere, and here."""


class FieldError(Refused):
    """A key whose value is refused; the text of the error is the one line that the user sees.

    Attributes:
        key: The dotted key, such as ``train.lr``.
        value: The value that is refused.
        allowed: What may stand there, in words.
        depends: Other keys that decide what is allowed.
        origin: What gave the value: a file, an option such as ``--train.lr``, or an arm of a study; empty for a default.
        is_default: Whether nothing gave the value, where that is known.
        context: What gave the keys of ``depends`` where that is something else, such as ``--data.size 32``.
    """

    def __init__(self, key: str, value: Any, allowed: str, depends: tuple[str, ...] = ()) -> None:
        super().__init__(key, value, allowed, depends)
        self.key = key
        self.value = value
        self.allowed = allowed
        self.depends = depends
        self.origin = ""
        self.is_default = False
        self.context: list[str] = []

    @property
    def problem(self) -> str:
        """What is wrong with the value, and what is allowed."""
        default = ", the default," if self.is_default else ""
        return f"{shown(self.value)}{default} is not allowed; it must be {self.allowed}"

    def __str__(self) -> str:
        key = shortened(self.key, LONGEST_KEY)
        message = f"{key}: {self.problem}"
        if self.origin and self.origin != f"--{self.key}":
            message = f"{self.origin}: {message}"
        if self.context:
            message += f" (with {', '.join(self.context)})"
        return message

    def within(self, place: str) -> "FieldError":
        """The same error with the place that it is in, such as a file's name, put before."""
        if self.origin:
            place = f"{place}: {self.origin}"
        self.origin = place
        return self

    def traced(self, values: Mapping[str, Any], origins: Mapping[str, str]) -> "FieldError":
        """The same error with what gave the refused value, and what gave others that make it impossible.

        Args:
            values: By dotted key the value of each field that was given.
            origins: By dotted key what gave it.
        """
        self.origin = origins.get(self.key, "")
        self.is_default = self.key not in origins
        for key in self.depends:
            origin = origins.get(key, self.origin)
            if origin == self.origin:
                continue
            value = shown(values[key])
            is_option = origin == f"--{key}"
            self.context.append(f"{origin} {value}" if is_option else f"{key}: {value} of {origin}")
        return self


class MissingKey(FieldError):
    """A required key that is not there."""

    @property
    def problem(self) -> str:
        return f"is missing; it must be {self.allowed}"


class UnknownKey(FieldError):
    """A key that does not exist; ``allowed`` names the one that was probably meant, or those that exist."""

    @property
    def problem(self) -> str:
        return f"there is no such key; {self.allowed}"


class Misread(FieldError):
    """Text that stands for another value than its reader thinks; ``allowed`` says for which, and what to write."""

    @property
    def problem(self) -> str:
        return self.allowed


# ---- keys that do not exist -------------------------------------------------------------------------------------------------


def unknown_key(key: str, known: Iterable[str], otherwise: str = "") -> UnknownKey:
    """The error of a key that does not exist, with the one that was probably meant.

    Args:
        key: The dotted key.
        known: The keys that exist.
        otherwise: What to say where none of them is similar; by default which keys there are.
    """
    known = list(known)
    similar = synonyms(key, known) or difflib.get_close_matches(key, known, n=1)
    if similar:
        return UnknownKey(key, None, f"did you mean {similar[0]}?")
    all_of_them = f"there are {shortened(', '.join(known), LONGEST_LIST)}"
    return UnknownKey(key, None, otherwise or all_of_them)


def synonyms(key: str, known: Iterable[str]) -> list[str]:
    """Other known keys of the same last part, or of what it is called elsewhere."""
    name = _last_part(key)
    wanted = SYNONYMS.get(name, name)
    return [other for other in known if other != key and _last_part(other) == wanted]


def _last_part(key: str) -> str:
    return key.rpartition(".")[2]


# ---- values in messages -----------------------------------------------------------------------------------------------------


def shown(value: Any) -> str:
    """A value as a configuration file or a study file has it, in one line that is not too long."""
    text = _in_yaml(value)
    if len(text) <= LONGEST_VALUE:
        return text
    return f"{text[: LONGEST_VALUE - 3]}..."


def _in_yaml(value: Any) -> str:
    if value is None:
        return "null"
    if isinstance(value, bool):
        return str(value).lower()
    if is_dataclass(value):
        value = vars(value)
    if isinstance(value, dict):
        pairs = [f"{key}: {_in_yaml(item)}" for key, item in value.items()]
        return "{" + ", ".join(pairs) + "}"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(map(_in_yaml, value)) + "]"
    return repr(value)
