"""The registration of a study: what it claimed before its first run, and which files it was made
of.
"""

import dataclasses
import hashlib
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from xceptlab.config.field_types import type_error
from xceptlab.config.fields import from_values
from xceptlab.config.schema import RunConfig
from xceptlab.errors import Refused
from xceptlab.files import decoded, write_atomically, write_once
from xceptlab.study.claims import Claim
from xceptlab.study.definition import Seeds
from xceptlab.study.expansion import Expansion

REGISTERED = "registered.yaml"
"""Name of the registration's file in a study's directory; ``report --publish`` copies it beside the
study file.
"""

FILES = "files.txt"
"""Name of the file in a study's directory that lists the files the study is made of, a path per
line: ``Expansion.files``, and their copies in other places."""


@dataclass(frozen=True, kw_only=True)
class Registration:
    """A study as it stood before its first run, as ``registered.yaml`` holds it.

    Reports flag what has been changed since.
    """

    time: float
    """Unix time of the registration."""
    claims: list[dict[str, Any]]
    """The fields of each ``Claim``."""
    alpha: float
    """The familywise error rate."""
    seeds: list[int] | dict[str, Any]
    """A list of seeds, or the fields of ``Seeds``."""
    arms: dict[str, dict[str, Any]]
    """What can change a result in each arm: its values by dotted key, by the arm's name."""
    question: str = ""
    """The question that the study answers; empty in the file of a version that did not keep it."""
    scope: str = "test_set"
    """What verdicts hold for: ``test_set`` or ``images``."""
    tune: dict[str, Any] = field(default_factory=dict)
    """The fields of ``Tune``; empty where nothing is tuned."""
    digest: str = ""
    """First 16 hex digits of the file's SHA-256, noted in the directory of every run of the study
    that had not begun at the registration. Empty where this was not read from a file.
    """

    @classmethod
    def of_today(cls, expansion: Expansion) -> "Registration":
        """Return the registration of a study as it stands today, whatever was registered."""
        study = expansion.study
        claims = [dataclasses.asdict(claim) for claim in study.claims]
        for claim in claims:
            claim["contrast"] = claim["contrast"] and list(claim["contrast"])
        arms = {name: config.science() for name, config in expansion.arms.items()}
        seeds = (
            dataclasses.asdict(study.seeds) if isinstance(study.seeds, Seeds) else list(study.seeds)
        )
        return cls(
            time=time.time(),
            claims=claims,
            alpha=study.alpha,
            seeds=seeds,
            arms=arms,
            question=study.question,
            scope=study.scope,
            tune=dataclasses.asdict(study.tune) if study.tune else {},
        )

    @classmethod
    def load_for(cls, expansion: Expansion) -> "Registration | None":
        """Read the registration of this very study; None where nothing is registered, as before its
        first run.

        Raises:
            Refused: The file is no registration, or is that of another study: the question in it is
                another one, and no arm in it equals one of this study.
        """
        registered = cls.load_file(expansion.directory())
        if registered is None:
            return None
        # An older version knew fewer fields; the default of a newer one is what it did.
        before = [RunConfig().science() | arm for arm in registered.arms.values()]
        shared = any(config.science() in before for config in expansion.arms.values())
        if registered.question not in ("", expansion.study.question) and not shared:
            raise Refused(
                f"{expansion.directory()}: another study of this name was run, {registered.question!r}; "
                "rename this one's folder or file, or give it another --runtime.outputs"
            )
        return registered

    @classmethod
    def load_file(cls, directory: Path) -> "Registration | None":
        """Read the registration in a study's directory, of whichever study it is; None where the
        directory has none.

        Raises:
            Refused: The file is no registration.
        """
        file = directory / REGISTERED
        try:
            written = file.read_bytes()
        except FileNotFoundError:
            return None
        try:
            values = _parsed(written)
            if isinstance(values, dict) and "digest" in values:
                raise Refused("digest: a file does not hold its own")
            registered = from_values(cls, values)
            registered._check()
        except Refused as error:
            reason = getattr(error, "problem", error)
            remedy = "remove it to register the study anew"
            raise Refused(
                f"{file}: not a registration of this version ({reason}); {remedy}"
            ) from None
        return dataclasses.replace(registered, digest=hashlib.sha256(written).hexdigest()[:16])

    def _check(self) -> None:
        """Check of a registration that was read from a file what its fields' types leave open: that
        ``seeds``, where it is a mapping, holds valid fields of ``Seeds``, and that every claim has
        an ``id`` that is text.

        Raises:
            Refused: One of these is not so.
        """
        if isinstance(self.seeds, dict):
            from_values(Seeds, self.seeds)
        for claim in self.claims:
            if invalid := type_error(str, claim.get("id"), "claims.id"):
                raise invalid

    @classmethod
    def register(cls, expansion: Expansion) -> None:
        """Register a study if it is not, and note the registration in the directory of every run
        that has not begun, with all seeds that it may come to.

        Where several commands do so at the same time, the first one's registration stays.

        Raises:
            Refused: The study's directory holds another study's registration or a file that is
                none; or a run's record is damaged.
        """
        registered = cls.load_for(expansion)
        if registered is None:
            expansion.directory().mkdir(parents=True, exist_ok=True)
            text = yaml.safe_dump(cls.of_today(expansion).contents(), sort_keys=False)
            write_once(expansion.directory() / REGISTERED, text.encode())
            registered = cls.load_for(expansion)
            assert registered is not None
        # Also of seeds that may be added: another study, or a first look, may train them before.
        for directory in expansion.at_most().directories().values():
            directory.register(registered.digest)

    def contents(self) -> dict[str, Any]:
        """Return the fields that the file holds: all but its own digest, and ``tune`` only where
        something is tuned.
        """
        contents = dataclasses.asdict(self)
        del contents["digest"]
        if not self.tune:
            del contents["tune"]
        return contents

    def edits(self, expansion: Expansion) -> list[str]:
        """Return in words, a clause each, how the study as it stands today differs from the
        registered one; empty where it does not. The question is not compared.
        """
        today = Registration.of_today(expansion)
        seeds = (
            dataclasses.asdict(Seeds(**self.seeds)) if isinstance(self.seeds, dict) else self.seeds
        )
        edits = []
        planned = (
            ("alpha", self.alpha, today.alpha),
            ("seeds", seeds, today.seeds),
            ("scope", self.scope, today.scope),
            ("tune", self.tune, today.tune),
        )
        for name, before, after in planned:
            if before != after:
                edits.append(f"{name} {before} -> {after}")
        claim_defaults = _claim_defaults()
        claims = {claim["id"]: claim_defaults | claim for claim in self.claims}
        claims_today = {claim["id"]: claim for claim in today.claims}
        # An older version knew fewer fields; the default of a newer one is what it did.
        science_defaults = RunConfig().science()
        arms = {name: science_defaults | science for name, science in self.arms.items()}
        # The seeds are compared above; an arm is registered at the first one.
        for science in [*arms.values(), *today.arms.values()]:
            del science["seed"]
        return edits + _edits("claim", claims, claims_today) + _edits("arm", arms, today.arms)


def _parsed(written: bytes) -> Any:
    """Parse the bytes of a YAML file to a value.

    Raises:
        Refused: They are not YAML, or stand for more than plain values.
    """
    # PyYAML raises more than its own errors on text that is damaged.
    not_yaml = (RecursionError, TypeError, ValueError, LookupError, AttributeError, yaml.YAMLError)
    try:
        return yaml.safe_load(decoded(written))
    except not_yaml as error:
        raise Refused(str(getattr(error, "problem", None) or error)) from None


def _claim_defaults() -> dict[str, Any]:
    """Return the defaults of a claim's fields by name.

    They fill the fields that an older version did not have when it registered a claim.
    """
    defaults: dict[str, Any] = {}
    for f in dataclasses.fields(Claim):
        if f.default is not dataclasses.MISSING:
            defaults[f.name] = f.default
        elif f.default_factory is not dataclasses.MISSING:
            defaults[f.name] = f.default_factory()
    return defaults


def _edits(
    kind: str, before: dict[str, dict[str, Any]], after: dict[str, dict[str, Any]]
) -> list[str]:
    """Return in words what was added, removed and changed among things of a kind.

    Args:
        kind: ``claim`` or ``arm``.
        before: The registered things: ``{name: {field: value}}``. A field that the thing of this
            name does not have today is not compared.
        after: The things as they are today, in the same form.
    """
    edits = [f"{kind} {name} added" for name in after if name not in before]
    edits += [f"{kind} {name} removed" for name in before if name not in after]
    for name, old in before.items():
        for key, value in after.get(name, {}).items():
            if old.get(key) != value:
                edits.append(f"{kind} {name}: {key} {old.get(key)} -> {value}")
    return edits


def refuse_namesake(expansion: Expansion) -> None:
    """Refuse a study whose directory belongs to another study of the same name.

    A directory that lists files (``files.txt``) belongs to the study that is made of them. A study
    that is made of other files is the same one if no listed file but its own exists any more, as
    when their folder was moved, or if it equals what was registered, as a copy in another clone
    does.

    Raises:
        Refused: A listed file that this study does not have exists, one of this study's files is
            not listed, and the study differs from what was registered; or ``registered.yaml`` is no
            registration, or another study's.
    """
    remembered = _remembered(expansion)
    others = [file for file in remembered if file not in expansion.files and file.is_file()]
    if not others or set(expansion.files) <= set(remembered):
        return
    registered = Registration.load_for(expansion)
    if registered and registered.edits(expansion):
        raise Refused(
            f"{expansion.directory()}: belongs to another study of this name, {others[0]}; "
            "rename this one's folder or file, or give it another --runtime.outputs"
        )


def remember_files(expansion: Expansion) -> None:
    """Add the files that the study is made of to ``files.txt`` in its directory, which is made if
    need be.
    """
    expansion.directory().mkdir(parents=True, exist_ok=True)
    files = dict.fromkeys([*_remembered(expansion), *expansion.files])
    text = "".join(f"{file}\n" for file in files)
    write_atomically(expansion.directory() / FILES, text.encode("utf-8", "surrogateescape"))


def _remembered(expansion: Expansion) -> list[Path]:
    """Return the paths in ``files.txt`` of the study's directory, to which ``remember_files`` adds
    the files that define the study: also those of other folders or clones from which it was started
    or reported before. Empty where there is no such file.
    """
    try:
        text = (expansion.directory() / FILES).read_text("utf-8", "surrogateescape")
    except FileNotFoundError:
        return []
    return [Path(line) for line in text.splitlines()]
