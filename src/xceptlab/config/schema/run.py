"""The whole configuration of a run: its sections, its seed and the user's modules; and the identity
that follows from them.
"""

import dataclasses
import functools
import json
from dataclasses import dataclass, field
from typing import Any

from xceptlab.config.fields import Section
from xceptlab.config.run_id import SCIENCE_VERSION, readable_parts, science_hash, science_of
from xceptlab.config.schema.data import DataConfig
from xceptlab.config.schema.model import ModelConfig
from xceptlab.config.schema.runtime import LauncherConfig, RuntimeConfig
from xceptlab.config.schema.train import TrainConfig
from xceptlab.errors import Refused

EXTENSION_DEFAULTS: dict[str, dict[str, Any]] = {
    "model": {"family": "xception", "options": {}},
    "train": {"metrics": [], "callbacks": []},
    "": {"extensions": []},
}
"""Defaults of the fields that only runs with the user's own modules set, by section and field; the
empty section is the run itself. A written configuration leaves out fields with these values.
"""


@dataclass(frozen=True, kw_only=True)
class RunConfig(Section):
    """One run: one training of one network with one seed."""

    model: ModelConfig = field(default_factory=ModelConfig)
    """The network."""
    data: DataConfig = field(default_factory=DataConfig)
    """The images."""
    train: TrainConfig = field(default_factory=TrainConfig)
    """The training."""
    runtime: RuntimeConfig = field(default_factory=RuntimeConfig)
    """Where and how the run is executed; must not change its result."""
    launcher: LauncherConfig = field(default_factory=LauncherConfig)
    """What starts the runs of a study; must not change their results."""
    seed: int = 0
    """Seed of the initial weights, the order of the images, their augmentation and dropout."""
    extensions: tuple[str, ...] = ()
    """The user's modules that register networks, metrics, data sets and the like: ``.py`` files,
    looked up beside the configuration file that names them, or names of importable modules. They
    are executed, and so the configuration in a run's folder never names any."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self._require("seed", 0 <= self.seed < 2**63, "between 0 and 2**63 - 1")

    def science(self) -> dict[str, Any]:
        """Return the values that can change the run's result, by dotted key, in the order of the
        schema.

        If the run uses registered components, the key ``extensions`` holds their versions, as in
        ``{"activation squash": 1}``.
        """
        science: dict[str, Any] = {}
        for section in self._science_sections:
            science |= science_of(section)
        science["seed"] = self.seed
        used = self.registered_versions()
        if used:
            science["extensions"] = used
        return science

    def keys_without_effect(self) -> dict[str, str]:
        """Return the keys whose values have no effect in this run, each with the setting that is
        the reason, such as ``data.crop none``.

        Not all such keys are returned: of those in ``DataConfig.OF_PHOTOGRAPHS``, for which small
        images refuse any value but the default, only some are.
        """
        without_effect = self.model.keys_without_effect()
        if self.data.crop != "pad":
            without_effect["data.pad"] = f"data.crop {self.data.crop}"
        if not self.data.short_side:
            without_effect["data.quality"] = "data.short_side 0"
        if not self.data.validation:
            without_effect["data.validation_seed"] = "data.validation 0"
        if self.data.in_memory:
            for name in ("on_corrupt", "max_pixels", "quality", "eval_crop", "eval_interpolation"):
                without_effect[f"data.{name}"] = f"data.name {self.data.name}"
        if self.data.name != "folder":
            without_effect["data.num_classes"] = f"data.name {self.data.name}"
        if self.train.schedule in ("constant", "cosine"):
            for name in ("decay_rate", "decay_epochs"):
                without_effect[f"train.{name}"] = f"train.schedule {self.train.schedule}"
        if self.train.optimizer == "adamw":
            without_effect["train.momentum"] = "train.optimizer adamw"
        return without_effect

    def registered_versions(self) -> dict[str, int]:
        """Return the version of each registered component that the run uses, by identity such as
        ``activation squash``; empty where it uses none.
        """
        versions = {}
        for section in self._science_sections:
            for entry in section.registered_entries():
                versions[entry.identity] = entry.version
        return versions

    @property
    def _science_sections(self) -> tuple[ModelConfig, DataConfig, TrainConfig]:
        """The sections of the configuration that can change a result."""
        return self.model, self.data, self.train

    def changed(self) -> dict[str, Any]:
        """Return the values of ``science`` that differ from their defaults, by dotted key."""
        defaults = _default_science()
        changed = {}
        for key, value in self.science().items():
            if value != defaults.get(key):
                changed[key] = value
        return changed

    @functools.cached_property
    def run_id(self) -> str:
        """Id of the run: a readable part and a hash of ``science``. Configurations of equal science
        are the same run, whichever study asks for it.

        The hash alone is the identity: ``RunDirectory.of`` finds a run also under another readable
        part.

        Raises:
            Refused: The id depends on files that nobody has read yet (``xceptlab.data.resolved``
                does).
        """
        return self.id_in(SCIENCE_VERSION)

    def id_in(self, version: int) -> str:
        """Return the id that this run has, or had, under a version of the results.

        The version goes into the hash, so that results of another version are another run.
        ``runs.directory.outdated`` looks for the ids of earlier versions.

        Args:
            version: Today's ``SCIENCE_VERSION`` or an earlier one.

        Raises:
            Refused: The id depends on files that nobody has read yet (``xceptlab.data.resolved``
                does).
        """
        is_known = self.data.identity_is_known and self.model.identity_is_known
        if not is_known:
            raise Refused(
                "run_id: it depends on the files of own data and of weights to start from, which nobody has looked at; "
                "xceptlab.data.resolved(config) does"
            )
        data_set = self.data.title or self.data.name
        readable = "-".join(
            [data_set, *readable_parts(*self._science_sections), f"seed{self.seed}"]
        )
        return f"{readable}-{science_hash(self.changed(), version)}"

    def to_dict(self) -> dict[str, Any]:
        """Return the configuration as nested plain values, as a file has them. Fields of
        ``EXTENSION_DEFAULTS`` are left out unless they are set.
        """
        values = json.loads(json.dumps(dataclasses.asdict(self)))
        for section, defaults in EXTENSION_DEFAULTS.items():
            part = values[section] if section else values
            for name, default in defaults.items():
                if part[name] == default:
                    del part[name]
        return values


@functools.cache
def _default_science() -> dict[str, Any]:
    """Return the default of each value that can change a result, by dotted key. The dictionary is
    cached, so it must not be changed.
    """
    return RunConfig().science()
