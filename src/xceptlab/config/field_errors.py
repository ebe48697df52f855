"""Errors of keys and values in a configuration, a study file or a record: one line with the key,
the value and what is allowed.

Refused                 what a user can mend (xceptlab.errors)
  FieldError            a value that its key does not allow
    MissingKey          a required key that is not there
    UnknownKey          a key that does not exist
    Misread             text that strict YAML refuses, such as a number it would read in base 8
"""

import difflib
from collections.abc import Iterable, Mapping
from dataclasses import is_dataclass
from typing import Any

from xceptlab.errors import Refused
from xceptlab.text import shortened

LONGEST_VALUE = 100
"""Largest number of characters of a value that an error shows."""
LONGEST_KEY = 100
"""Largest number of characters of a key that an error shows."""
LONGEST_LIST = 300
"""Largest number of characters of the list of all known keys that an error shows."""

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
"""Our name of a field, by the name that other libraries give such a setting."""


class FieldError(Refused):
    """A key whose value is refused; the text of the error is the one line that the user sees.

    Attributes:
        key: The dotted key, such as ``train.lr``.
        value: The value that is refused.
        allowed: The values that the key allows, in words.
        depends: Other keys that decide what is allowed.
        origin: Source of the value: a file, an option such as ``--train.lr``, or an arm of a study.
            Empty for a default, and as long as the source is not known.
        is_default: Whether the value is known to be the field's default.
        context: Values of the keys in ``depends`` that come from another source, such as
            ``--data.size 32``.
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
        """What is wrong and what is allowed, in words, without key and source."""
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
        """Put a place, such as a file's name, before the error's message; returns the error. If the
        option of the key itself, such as ``--train.lr``, is the only place, it is not shown.
        """
        if self.origin:
            place = f"{place}: {self.origin}"
        self.origin = place
        return self

    def traced(self, values: Mapping[str, Any], origins: Mapping[str, str]) -> "FieldError":
        """Add the sources of the refused value, and of the values that make it impossible; returns
        the error.

        Args:
            values: Value of each field that was set, by dotted key.
            origins: Source of each of these values, by dotted key: a file, an option such as
                ``--train.lr``, or an arm of a study.
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
    """The error for a required key that is missing: ``value`` is None, and ``allowed`` says in words
    what the key takes.
    """

    @property
    def problem(self) -> str:
        return f"is missing; it must be {self.allowed}"


class UnknownKey(FieldError):
    """The error for a key that does not exist: ``value`` is None, and ``allowed`` names the key
    that was probably meant or, where none is similar, says which keys exist or where to look.
    """

    @property
    def problem(self) -> str:
        return f"there is no such key; {self.allowed}"


class Misread(FieldError):
    """The error for a value that is given as text and that ``xceptlab``'s strict YAML refuses: YAML
    would read it as another value than people do, such as ``010`` in base 8, or it holds what is
    not allowed, such as a key that is given twice.

    ``value`` is the text, and ``allowed`` says what is wrong with it and, for some faults, what to
    write in its place.
    """

    @property
    def problem(self) -> str:
        return self.allowed


# ---- keys that do not exist ----------------------------------------------------------------------


def unknown_key(key: str, known: Iterable[str], otherwise: str = "") -> UnknownKey:
    """Make the error for a key that does not exist; it names the key that was probably meant.

    Args:
        key: The dotted key.
        known: The keys that exist.
        otherwise: What the error says where no known key is similar; if it is empty, the error
            lists the known keys.
    """
    known = list(known)
    similar = synonyms(key, known) or difflib.get_close_matches(key, known, n=1)
    if similar:
        return UnknownKey(key, None, f"did you mean {similar[0]}?")
    all_of_them = f"there are {shortened(', '.join(known), LONGEST_LIST)}"
    return UnknownKey(key, None, otherwise or all_of_them)


def synonyms(key: str, known: Iterable[str]) -> list[str]:
    """Return the known keys that are probably meant by ``key``: those that end with our name of its
    last part, such as ``train.lr`` for ``optim.learning_rate``, or with that part itself where
    ``SYNONYMS`` has no name of ours. Empty where there is none.
    """
    name = _last_part(key)
    wanted = SYNONYMS.get(name, name)
    return [other for other in known if other != key and _last_part(other) == wanted]


def _last_part(key: str) -> str:
    """Return the name at the end of a dotted key, such as ``lr``."""
    return key.rpartition(".")[2]


# ---- values in messages --------------------------------------------------------------------------


def shown(value: Any) -> str:
    """Format a value as in a YAML file, in one line of at most ``LONGEST_VALUE`` characters; what
    is longer is cut, and ends in ``...``.
    """
    text = _in_yaml(value)
    if len(text) <= LONGEST_VALUE:
        return text
    return f"{text[: LONGEST_VALUE - 3]}..."


def _in_yaml(value: Any) -> str:
    """Format a value as in a YAML file, in one line, whatever its length."""
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
