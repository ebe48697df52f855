"""Sections of a configuration: frozen dataclasses whose typed fields are checked when they are
made; their dotted keys; and how they are made from the values of a file.
"""

import functools
import os
from dataclasses import MISSING, Field, dataclass, fields, is_dataclass
from typing import Any, ClassVar, Literal, TypeVar, get_args, get_origin

from xceptlab import register
from xceptlab.config.field_errors import FieldError, MissingKey, shown, unknown_key
from xceptlab.config.field_types import canonical, in_words, type_error
from xceptlab.errors import Refused

T = TypeVar("T")

Values = dict[str, Any]
"""Values by dotted key, such as ``{"train.lr": 0.1}``."""

NO_IDENTITY = {"identity": False}
"""Metadata of a field that is no part of a run's identity, as its value cannot change a result."""
LOCATION = NO_IDENTITY | {"path": True}
"""Metadata of a field that holds a path: no part of a run's identity, and a leading ``~`` stands
for the user's home.
"""


@dataclass(frozen=True, kw_only=True)
class Section:
    """Base of all parts of a configuration or of a study file: a frozen dataclass.

    When it is made, the type of every field is checked and its value brought into canonical form
    (``canonical``; in paths a leading ``~`` is expanded). A subclass checks more in a
    ``__post_init__`` of its own, which calls this one and then ``_require``.
    """

    PREFIX: ClassVar[str] = ""
    """Prefix of this section's keys, such as ``model.``."""

    def __post_init__(self) -> None:
        for f in fields(self):
            value = getattr(self, f.name)
            error = type_error(f.type, value, self.PREFIX + f.name)
            if error:
                raise error
            object.__setattr__(self, f.name, _normalised(f, value))

    def _require(self, name: str, holds: bool, allowed: str, *depends: str) -> None:
        """Refuse the value of a field unless a condition holds.

        Args:
            name: The field's name.
            holds: Whether the value is allowed.
            allowed: The allowed values in words, for the error.
            depends: Names of the fields of this section that decide what is allowed.

        Raises:
            FieldError: The condition does not hold.
        """
        if not holds:
            others = tuple(self.PREFIX + other for other in depends)
            raise FieldError(self.PREFIX + name, getattr(self, name), allowed, others)


def _normalised(f: Field[Any], value: Any) -> Any:
    """Return a field's value in canonical form: a path with its leading ``~`` expanded, any other
    as ``canonical`` returns it.
    """
    # A shell expands ~ at the beginning of a word only, and not in --data.root=~/data.
    if f.metadata.get("path"):
        return os.path.expanduser(value)
    return canonical(f.type, value)


@dataclass(frozen=True, kw_only=True)
class ExtensibleSection(Section):
    """A section with fields that also accept names of components which the user's modules register
    (``xceptlab.register``).
    """

    REGISTRABLE: ClassVar[dict[str, register.Kind]] = {}
    """Fields that accept registered names, each with the kind of component that it names."""

    def __post_init__(self) -> None:
        super().__post_init__()
        for field_name, kind in self.REGISTRABLE.items():
            for value in self._named(field_name):
                self._check_name(field_name, kind, value)

    def _check_name(self, field_name: str, kind: register.Kind, value: str) -> None:
        """Check a name in a field's value.

        Raises:
            Refused: The name is neither built in nor registered, or it is both.
        """
        built_in = self._built_in(field_name)
        if value in built_in:
            if value in register.names(kind):
                key = self.PREFIX + field_name
                raise Refused(
                    f"{key}: {value!r} is built in, and registered, too; give yours another name"
                )
            return
        if register.find(kind, value) is None:
            allowed = "what a module of `extensions` registers"
            names = [*built_in, *register.names(kind)]
            if names:
                allowed = f"one of {', '.join(names)}, or {allowed}"
            raise FieldError(self.PREFIX + field_name, value, allowed)

    def registered_entries(self) -> list[register.Entry]:
        """Return the registered components that this section uses, field by field; empty where all
        it names is built in.
        """
        used = []
        for field_name, kind in self.REGISTRABLE.items():
            built_in = self._built_in(field_name)
            for value in self._named(field_name):
                if value not in built_in:
                    used.append(register.entry(kind, value))
        return used

    def _named(self, field_name: str) -> tuple[str, ...]:
        """Return the names in a field's value, which is one name or a tuple of names."""
        value = getattr(self, field_name)
        return (value,) if isinstance(value, str) else value

    @classmethod
    def _built_in(cls, field_name: str) -> tuple[str, ...]:
        """Return the names that a field accepts without registration: those of the ``Literal`` in
        ``Literal[...] | str``; empty for another type.
        """
        for part in get_args(cls.__dataclass_fields__[field_name].type):
            if get_origin(part) is Literal:
                return get_args(part)
        return ()


@functools.cache
def keys(schema: Any, prefix: str = "") -> dict[str, Any]:
    """Return the type of each dotted key of a dataclass; ``prefix`` is put before each key. A field
    that is a dataclass itself has a key, and its fields have theirs: ``train`` and ``train.lr``.
    The dictionary is cached, so it must not be changed.
    """
    found: dict[str, Any] = {}
    for f in fields(schema):
        key = prefix + f.name
        found[key] = f.type
        if isinstance(f.type, type) and is_dataclass(f.type):
            found |= keys(f.type, f"{key}.")
    return found


def is_required(f: Field[Any]) -> bool:
    """Whether a dataclass's field has no default."""
    return f.default is MISSING and f.default_factory is MISSING


# ---- from plain values ---------------------------------------------------------------------------


def from_values(schema: type[T], values: Any, prefix: str = "") -> T:
    """Make a dataclass from the plain nested values of a file. All types are checked, and values
    get their canonical form.

    Args:
        schema: The dataclass. A ``Section`` checks types itself, since it may take more than they
            say, such as a number as the name of an arm.
        values: A mapping by field name. Where a field is a dataclass, or a list of them, it holds
            mappings in their place.
        prefix: Prefix of the keys in messages. It is ignored for a ``Section``, which has its own.

    Raises:
        Refused: The values are no mapping, a key is unknown or missing, a value is not of its
            field's type or is refused by the section's own checks, or a dataclass that is no
            ``Section`` raises an error.
    """
    if not isinstance(values, dict):
        raise Refused(f"{shown(values)} is no mapping")
    if issubclass(schema, Section):
        prefix = schema.PREFIX
    known = {f.name: f for f in fields(schema)}  # type: ignore[arg-type]
    _check_keys(known, values, prefix)
    made = {name: _with_dataclasses(known[name], value) for name, value in values.items()}
    if not issubclass(schema, Section):
        _check_types(known, made, prefix)
        made = {name: canonical(known[name].type, value) for name, value in made.items()}
    try:
        return schema(**made)
    except Refused:
        raise
    except Exception as error:
        if issubclass(schema, Section):
            raise
        # A user's dataclass of a family's options may have checks of its own, or a defect.
        kind = "" if isinstance(error, ValueError) else f"{type(error).__name__}: "
        raise Refused(f"{kind}{error}") from error


def _check_keys(known: dict[str, Field[Any]], values: dict[Any, Any], prefix: str) -> None:
    """Refuse a key that is not known, and values in which a required key is missing."""
    for name in values:
        if name not in known:
            raise unknown_key(f"{prefix}{name}", [prefix + other for other in known])
    for name, f in known.items():
        if name not in values and is_required(f):
            raise MissingKey(prefix + name, None, in_words(f.type))


def _check_types(known: dict[str, Field[Any]], values: dict[str, Any], prefix: str) -> None:
    """Refuse a value that is not of its field's type."""
    for name, value in values.items():
        error = type_error(known[name].type, value, prefix + name)
        if error:
            raise error


def _with_dataclasses(f: Field[Any], value: Any) -> Any:
    """Return a field's value with a dataclass in the place of each mapping that stands for one. That
    concerns types such as ``Paper``, ``Tune | None`` and ``list[Claim]``; any other value is
    returned as it is.
    """
    schema = _dataclass_in(f.type)
    if schema is None:
        return value
    is_list_type = get_origin(f.type) is list
    if is_list_type and isinstance(value, list):
        thing = f.name.removesuffix("s")
        return [_item(schema, item, thing, number) for number, item in enumerate(value, start=1)]
    if not is_list_type and isinstance(value, dict):
        return from_values(schema, value)
    return value


def _dataclass_in(kind: Any) -> Any:
    """Return the dataclass in a type such as ``Paper``, ``list[Claim]`` or ``Tune | None``; None if
    there is none.
    """
    for part in (kind, *get_args(kind)):
        # The bounds in an Annotated type are an instance of a dataclass.
        if isinstance(part, type) and is_dataclass(part):
            return part
    return None


def _item(schema: Any, item: Any, thing: str, number: int) -> Any:
    """Make the dataclass of an item of a list; an item that is no mapping is returned as it is.

    Args:
        schema: The dataclass.
        item: The item as the file has it.
        thing: What an item is, for errors, such as ``claim``.
        number: The item's place in the list, from 1; errors name it unless the item has an ``id``.
    """
    if not isinstance(item, dict):
        return item
    try:
        return from_values(schema, item)
    except Refused as error:
        name = item.get("id")
        place = repr(name) if isinstance(name, str) else number
        raise error.within(f"{thing} {place}") from None
