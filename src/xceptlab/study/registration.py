"""What a study claimed before its first run, and which files it was made of."""

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
"""The registration's file in a study's directory; ``report --publish`` copies it beside the study.
"""

FILES = "files.txt"
"""The file in a study's directory that lists, one path a line, what the study is made of: its study
file, the layers that its name tells of, and their copies elsewhere."""


@dataclass(frozen=True, kw_only=True)
class Registration:
    """A study as it stood before its first run, ``registered.yaml``; what is changed later is
    flagged.
    """

    time: float
    """Unix time of the registration."""
    claims: list[dict[str, Any]]
    """The fields of each ``Claim``."""
    alpha: float
    seeds: list[int] | dict[str, Any]
    """A list of seeds, or the fields of ``Seeds``."""
    arms: dict[str, dict[str, Any]]
    """The science of each arm, by its name."""
    question: str = ""
    scope: str = "test_set"
    tune: dict[str, Any] = field(default_factory=dict)
    """The fields of ``Tune``; empty where nothing is tuned."""
    digest: str = ""
    """First 16 hex digits of the file's SHA-256; runs that began under it name it. Empty before the
    file is written.
    """

    @classmethod
    def of_today(cls, expansion: Expansion) -> "Registration":
        """The study as it stands today, whatever was registered."""
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
        """The registration of this very study, or None before its first run.

        Raises:
            Refused: The file is no registration, or one of another study, with which this one
                shares neither question nor arm.
        """
        registered = cls.load_file(expansion.directory())
        if registered is None:
            return None
        # an older version knew fewer fields
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
        """The registration in a study's directory, of whichever study; None where the directory has
        none.

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
        """Refuse what the types of the fields let pass: wrong fields of ``Seeds``, and claims
        without an id.
        """
        if isinstance(self.seeds, dict):
            from_values(Seeds, self.seeds)
        for claim in self.claims:
            if invalid := type_error(str, claim.get("id"), "claims.id"):
                raise invalid

    @classmethod
    def register(cls, expansion: Expansion) -> None:
        """Register a study, once, and note it with every run that has not begun.

        Of several commands that do so at the same time the first one's registration stays.
        """
        registered = cls.load_for(expansion)
        if registered is None:
            expansion.directory().mkdir(parents=True, exist_ok=True)
            text = yaml.safe_dump(cls.of_today(expansion).contents(), sort_keys=False)
            write_once(expansion.directory() / REGISTERED, text.encode())
            registered = cls.load_for(expansion)
            assert registered is not None
        for directory in expansion.directories().values():
            directory.register(registered.digest)

    def contents(self) -> dict[str, Any]:
        """What the file holds: all but its own digest, and ``tune`` only where something is tuned."""
        contents = dataclasses.asdict(self)
        del contents["digest"]
        if not self.tune:
            del contents["tune"]
        return contents

    def edits(self, expansion: Expansion) -> list[str]:
        """What differs between the registered study and today's, in words."""
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
        science_defaults = RunConfig().science()  # an older version knew fewer fields
        arms = {name: science_defaults | science for name, science in self.arms.items()}
        return edits + _edits("claim", claims, claims_today) + _edits("arm", arms, today.arms)


def _parsed(written: bytes) -> Any:
    """The value that a file's bytes stand for.

    Raises:
        Refused: They are no YAML of plain values.
    """
    try:
        return yaml.safe_load(decoded(written))
    except (
        RecursionError,
        TypeError,
        ValueError,
        LookupError,
        AttributeError,
        yaml.YAMLError,
    ) as error:  # all of PyYAML's
        raise Refused(str(getattr(error, "problem", None) or error)) from None


def _claim_defaults() -> dict[str, Any]:
    """The defaults of a claim's fields, which hold where a later version has added fields to those
    that were registered.
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
    """What was added, removed and changed, in words, among things of a kind, whose fields are given
    by name.
    """
    edits = [f"{kind} {name} added" for name in after if name not in before]
    edits += [f"{kind} {name} removed" for name in before if name not in after]
    for name, old in before.items():
        for key, value in after.get(name, {}).items():
            if old.get(key) != value:
                edits.append(f"{kind} {name}: {key} {old.get(key)} -> {value}")
    return edits


def refuse_namesake(expansion: Expansion) -> None:
    """Refuse a study whose directory belongs to another study file of this name, or to other
    layers.

    A file that is gone, since its folder was moved, and a copy that is as the study was registered,
    as in another clone, are the same study, and are remembered with it.

    Raises:
        Refused: The other study's file is there, and this one differs from what was registered.
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
    """Note in the study's directory which files the study is made of."""
    expansion.directory().mkdir(parents=True, exist_ok=True)
    files = dict.fromkeys([*_remembered(expansion), *expansion.files])
    text = "".join(f"{file}\n" for file in files)
    write_atomically(expansion.directory() / FILES, text.encode("utf-8", "surrogateescape"))


def _remembered(expansion: Expansion) -> list[Path]:
    """The files that the study was made of, here or elsewhere, as its directory lists them."""
    try:
        text = (expansion.directory() / FILES).read_text("utf-8", "surrogateescape")
    except FileNotFoundError:
        return []
    return [Path(line) for line in text.splitlines()]
