"""Single runs from Python: their configuration, their training, and a finished run's network,
scores and features.
"""

import dataclasses
import functools
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from xceptlab.config.layers import by_dotted_key
from xceptlab.config.loading import Argument, Value, load_run
from xceptlab.config.schema import RunConfig
from xceptlab.errors import Refused
from xceptlab.runs.directory import RunDirectory, refuse_other_versions
from xceptlab.runs.record import Record

if TYPE_CHECKING:
    import pandas as pd
    from torch import Tensor, nn

    from xceptlab.data.transform import Transform

Layer = str | os.PathLike[str] | Mapping[str, Any]
"""A layer of configuration: the path of a file, or values by key, ``{"train.lr": 0.05}`` or
``{"train": {"lr": 0.05}}``.
"""

SPLITS = ("train", "val", "test")
"""The splits whose features ``Run.split_features`` computes."""

POINT = ("step", "epoch", "metric", "value")
"""The columns of a learning curve: optimizer step, epoch (in fractions), metric and its value."""


def configure(*layers: Layer) -> RunConfig:
    """Return the configuration of a run.

    Args:
        layers: Configuration files, looked up as on the command line, and values by key, in their
            order: the last one wins. Without any it is the paper's network on ImageNet.

    Raises:
        Refused: A file does not exist, or a key or a value is not allowed.
    """
    return load_run(arguments(layers))


def train(*layers: Layer | RunConfig, progress: bool = False) -> "Run":
    """Train, evaluate and record one run in this process, or continue it where it stopped, and
    return it. A run that is done or has diverged is not trained again. No error is raised where a
    run diverges: its ``status`` tells.

    Afterwards PyTorch stays configured as the run asks for: ``train.threads``, deterministic
    algorithms, no TF32. Some of Lightning's warnings stay hidden, and on Linux the process keeps
    freed memory for itself.

    Args:
        layers: A configuration, or layers of one as ``configure`` takes them.
        progress: Show a progress bar.

    Raises:
        Refused: A layer is not allowed; the data are not there; the configuration does not fit the
            data, the device or what is installed, or asks for several devices; the weights to start
            from cannot be used; the run was trained on other data than there are now, or its record
            is damaged; or a registered component raises an error.
        Busy: Another process is training this run.
        Interrupted, KeyboardInterrupt: A signal asked to stop; the same call continues.
        OSError: A file cannot be read or written, such as on a full disk.
    """
    if len(layers) == 1 and isinstance(layers[0], RunConfig):
        config = layers[0]
    else:
        config = configure(*layers)  # type: ignore[arg-type]
    processes = config.runtime.devices * config.runtime.num_nodes
    if processes > 1:
        raise Refused(
            f"runtime.devices: a run on {processes} devices needs processes of its own: `xceptlab train`, or a study"
        )
    from xceptlab.data import require_files, resolved
    from xceptlab.training import train as training

    require_files(config.data)
    config = resolved(config)
    training.train(config, progress=progress, quiet=not progress)
    return Run(RunDirectory.of(config.runtime.outputs, config.run_id).path)


class Run:
    """One run, as its folder shows it: configuration, status, scores, curves and network.

    Args:
        name: The run's folder, or its id.
        outputs: The folder that holds ``runs/``; used only where ``name`` is an id.
        extensions: Names or paths of the modules that register components of the user's own, such
            as activations, that the run uses. Modules that this process has loaded already may be
            left out.

    Raises:
        Refused: There is no such run; its config.yaml is not of this version, or its record is
            damaged; or a registered component that it uses is not known to this process or has
            another version here.
    """

    def __init__(
        self,
        name: str | os.PathLike[str],
        outputs: str | os.PathLike[str] = "outputs",
        *,
        extensions: Sequence[str] = (),
    ) -> None:
        found = RunDirectory.find(name, outputs)
        if found is None:
            raise Refused(
                f"{os.fspath(name)}: neither a run's folder nor a run under {Path(outputs) / 'runs'}"
            )
        self._directory = found
        self.config = load_run(
            arguments([{"extensions": extensions}]), of_run=str(self.path / "config.yaml")
        )
        refuse_other_versions(self.config, self._directory)

    def __repr__(self) -> str:
        scores = ", ".join(f"{name} {value:.4g}" for name, value in self.metrics.items())
        return f"<Run {self.id}: {self.status}{f', {scores}' if scores else ''}>"

    @property
    def path(self) -> Path:
        """Path of the run's folder."""
        return self._directory.path

    @property
    def id(self) -> str:
        """The run's id, which is its folder's name."""
        return self.path.name

    @property
    def record(self) -> Record | None:
        """What the run has left behind, whether it is done or has diverged: its scores, costs and
        environment. None before that.

        Raises:
            Refused: The record is damaged.
        """
        return self._directory.record()

    @property
    def status(self) -> str:
        """State of the run: ``done``, ``diverged``, ``running`` (a process trains it now),
        ``failed`` (in a study, or its record is damaged), ``stopped`` (it has logged something) or
        ``waiting`` (it has logged nothing yet).
        """
        from xceptlab.launch.status import run_status

        return run_status(self._directory, self._directory.follow(), self.config.train.epochs).state

    @property
    def metrics(self) -> dict[str, float]:
        """The final scores by metric, such as ``test/top1`` in percent; empty while the run is not
        done, and where it diverged.
        """
        record = self.record
        return record.metrics if record else {}

    def curves(self) -> "pd.DataFrame":
        """Return the run's log as a tidy table, a row per logged value: step, epoch (in fractions),
        metric and value. It has no rows while nothing is logged.
        """
        import pandas as pd

        return pd.DataFrame(points(self._directory), columns=POINT)

    @functools.cached_property
    def network(self) -> "nn.Module":
        """The network with the weights that were evaluated, in eval mode; its parameters are
        float32, or float64 where ``train.precision`` is 64-true.

        It is loaded once, on the CPU, and may be moved: ``run.network.cuda()``.

        Raises:
            Refused: There is no model.safetensors, since the run is not done, diverged, or its
                weights were removed; or the file is damaged or does not fit the network.
        """
        from xceptlab.models import pretrained
        from xceptlab.models.build import build, channels_last

        weights = self.path / "model.safetensors"
        if not weights.is_file():
            status = self.status
            if status == "done":
                raise Refused(f"{weights}: the file is missing, though the run is done")
            raise Refused(f"{self.path}: {status}, so that there is no model.safetensors in it")
        network = build(self.config.model, self.config.data.classes)
        if self.config.train.precision == "64-true":
            network = network.double()
        pretrained.fit(network, pretrained.read_tensors(weights), str(weights))
        return channels_last(network).eval()

    @property
    def transform(self) -> "Transform":
        """The function that turns a Pillow image, or an array (H, W), (H, W, 1) or (H, W, 3) of
        uint8, into the network's input (3, size, size), as the run's evaluation does.
        """
        import torch

        from xceptlab.data.transform import Transform

        exact = self.config.train.precision == "64-true"
        return Transform(self.config.data, torch.float64 if exact else torch.float32)

    def features(self, images: "Tensor") -> "Tensor":
        """Compute the classifier's inputs (N, D) for images (N, 3, size, size) that ``transform``
        has prepared.

        They are those of ``network`` as it is now, in eval mode, and on its device.

        Raises:
            Refused: The run has no ``network``; it is not known which of the network's modules is
                the classifier; or the network does not call it.
        """
        from xceptlab.models.features import features

        return features(self.network, images)

    def split_features(self, split: Literal["train", "val", "test"]) -> "Features":
        """Compute the classifier's inputs for every image of a split, in the split's order and
        without augmentation, and return them with the images' labels.

        They are those of ``network`` as it is now, in eval mode.

        Raises:
            Refused: There is no such split, it is empty, the data are not there or have changed,
                one of its photographs cannot be decoded, the run has no ``network``, or it is not
                known which of the network's modules is the classifier.
        """
        import torch

        from xceptlab.data.identity import resolved_data
        from xceptlab.data.module import DataModule

        if split not in SPLITS:
            raise Refused(f"{split!r} is no split; there are {', '.join(SPLITS)}")
        # The weights that the training started from are not needed, and may be gone by now.
        config = dataclasses.replace(self.config, data=resolved_data(self.config.data))
        data = DataModule(config)
        data.setup("test")
        if split == "val" and not len(data.validation):
            raise Refused(f"val is empty; data.validation of {self.id} is 0")
        rows, labels = [], []
        for batch in data.as_in_evaluation(split):
            rows.append(self.features(batch.images).cpu())
            labels.append(batch.labels)
        return Features(torch.cat(rows), torch.cat(labels))


class Features(NamedTuple):
    """The classifier's inputs, and the labels, of the N images of a split."""

    values: "Tensor"
    """The classifier's inputs (N, D), on the CPU."""
    labels: "Tensor"
    """The index of each image's class (N,)."""


def arguments(layers: Sequence[Layer]) -> list[Argument]:
    """Return the arguments of ``load_run`` that mean the same as these layers: ``-c`` and the path
    of each file, and a ``Value`` for each dotted key.

    Raises:
        Refused: A layer is neither a file nor values by key, or a value is none that a
            configuration file could hold.
    """
    found: list[Argument] = []
    for one in layers:
        if isinstance(one, Mapping):
            for key, value in by_dotted_key(one, "the layer").items():
                found.append(Value(key, _plain(key, value)))
        elif isinstance(one, str | os.PathLike):
            found += ["-c", os.fspath(one)]
        else:
            raise Refused(
                f"a layer is {type(one).__name__}; it must be a configuration file or values by key"
            )
    return found


def _plain(key: str, value: Any) -> Any:
    """Convert a value to one that JSON has: a path to text, a tuple to a list, NumPy's scalars and
    arrays to Python's numbers and lists. ``key`` says in an error which value it is.

    Raises:
        Refused: The value, or one within it, is of another type.
    """
    if value is None or isinstance(value, bool):
        return value
    # Members of enumerations and NumPy's numbers are of subclasses of these types.
    if isinstance(value, str):
        return str.__str__(value)
    if isinstance(value, int):
        return int(value)
    if isinstance(value, float):
        return float(value)
    if isinstance(value, os.PathLike):
        # What a path-like object stands for may be bytes, which are refused.
        return _plain(key, os.fspath(value))
    if isinstance(value, list | tuple):
        return [_plain(key, item) for item in value]
    if isinstance(value, dict):
        return {_name(key, name): _plain(f"{key}.{name}", item) for name, item in value.items()}
    if hasattr(value, "tolist"):
        converted = value.tolist()
        # A number of a type that Python does not have, such as NumPy's longdouble, stays as it is.
        if type(converted) is not type(value):
            return _plain(key, converted)
    raise Refused(
        f"{key}: a value of type {type(value).__name__} is not allowed; it must be text, a path, a number, "
        "true or false, null, a list or a mapping"
    )


def _name(key: str, name: Any) -> str:
    """Return a name in the mapping under ``key`` if it is text, as JSON needs it.

    Raises:
        Refused: The name is not text.
    """
    if not isinstance(name, str):
        raise Refused(f"{key}: the name {name!r} in the mapping is not allowed; it must be text")
    return name


def points(directory: RunDirectory) -> list[tuple[int, float, str, float]]:
    """Read a run's log as rows (step, epoch in fractions, metric, value), one for each logged
    value; empty where nothing is logged.

    Raises:
        Refused: A line of the log is damaged.
    """
    points = []
    for line in directory.log():
        names = [name for name in line if name not in ("step", "epoch", "time")]
        points += [(line["step"], line["epoch"], name, line[name]) for name in names]
    return points
