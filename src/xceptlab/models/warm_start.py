"""Starting a training from existing weights (``model.weights``) in place of drawn ones."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

from xceptlab.config.loading import load_file
from xceptlab.config.schema import DataConfig, ModelConfig
from xceptlab.data.identity import class_names, weights_file
from xceptlab.errors import Refused
from xceptlab.models.build import build
from xceptlab.models.pretrained import CONSTANTS, model_of_run, read
from xceptlab.models.state import State, fitted
from xceptlab.runs.directory import RunDirectory
from xceptlab.runs.record import Record

FUNCTION = (
    "order",
    "intermediate",
    "intermediate_norm",
    "residual",
    "segments",
    "convolution",
    "stem",
)
"""Fields of ``ModelConfig`` in which the network that starts from weights may differ from the one
that they were trained in, although it then computes something else with them. Some of them do not
show in the weights' names and shapes. A difference in ``padding`` or ``bn_eps`` is refused.
"""
SPLIT = ("validation", "validation_seed", "train_images")
"""Fields of ``DataConfig`` that say which images are held out for validation."""

SEEN = "may have trained on images that are held out for validation here"
"""Words in a run's record which say that the weights it started from may have been trained on
images that the run holds out for validation. A later run that starts from this run's weights finds
the words in this record.
"""


@dataclass(frozen=True, kw_only=True)
class WarmStart:
    """Existing weights that a training starts from."""

    state: State
    """All weights of the network, by name."""
    source: str
    """Source of the weights in words, with those settings of the network that they were trained in
    which differ from the present network's, or with a note that these are not known.
    """
    anew: str
    """Layers that are drawn although there are weights, and why, in words; empty where every weight
    comes from the source.
    """
    classes: tuple[str, ...] = ()
    """Names of the classes, by label, that the classifier was trained on; empty where they are not
    known, and where the classifier is drawn.
    """

    has_seen_validation: bool = False
    """Whether the run whose weights they are may have trained on images that are held out for
    validation here; False where nothing is known of that run, or of the data here.
    """

    @property
    def description(self) -> str:
        """The source of the weights in words, with the layers that are drawn all the same, and with
        ``SEEN`` if ``has_seen_validation``: for the record of the run that starts from them.
        """
        seen = f"it {SEEN}" if self.has_seen_validation else ""
        return "; ".join(filter(None, (self.source, self.anew, seen)))

    def __str__(self) -> str:
        return f"starts from {self.source}; {self.anew or 'every weight is theirs, also those of the classifier'}"


def warm_start(
    config: ModelConfig, network: nn.Module, data: DataConfig | None = None
) -> WarmStart | None:
    """Read the weights of ``model.weights`` for a network; None where the configuration has none.

    Neither the network nor its configuration is changed. If the source has another number of
    classes or no classifier, the result has the network's drawn weights for the classifier and for
    those optional fully connected layers that do not fit.

    Args:
        config: The network's configuration.
        network: The network with drawn weights. It may be on the meta device, which is enough to
            see whether the weights fit.
        data: The data of the training, to tell whether the weights may have seen its validation
            images; None to leave this out.

    Raises:
        Refused: The weights are not there, cannot be read or do not fit; they were trained with
            another padding or epsilon of BatchNorm; or the configuration or the record of their run
            cannot be read.
    """
    if not config.weights:
        return None
    file = weights_file(config.weights)
    where = f"model.weights: {file}"
    source, state = read(file)
    trained = model_of_run(file) if source == "xceptlab" else ModelConfig(**CONSTANTS[source])
    if trained:
        _refuse_other_constants(config, trained, where)
    drawn = network.state_dict()
    anew = ""
    if _classes(state) != _classes(drawn):
        state, anew = _with_drawn_top(state, drawn)
    record = _record(file, source)
    return WarmStart(
        state=fitted(drawn, state, where),
        source=_source(file, source, record, config, trained),
        anew=anew,
        classes=tuple(record.classes) if record and not anew else (),
        has_seen_validation=data is not None and _has_seen_validation(file, record, data),
    )


def check(config: ModelConfig, classes: int) -> None:
    """Check that the weights of ``model.weights`` fit the network. Nothing is checked where it is
    empty, or its file is not there: a missing file is refused by the training.

    Args:
        config: The network's configuration.
        classes: Number of classes.

    Raises:
        Refused: The weights cannot be read or do not fit, they were trained with another padding or
            epsilon of BatchNorm, or the configuration or the record of their run cannot be read.
    """
    _without_values(config, classes)


def draws_a_layer(config: ModelConfig, classes: int) -> bool:
    """Whether a training draws any weights, so that ``model.init`` has an effect. It is taken to do
    so where the file of the weights to start from is not there.

    Args:
        config: The network's configuration.
        classes: Number of classes.

    Raises:
        Refused: The weights cannot be read or do not fit, they were trained with another padding or
            epsilon of BatchNorm, or the configuration or the record of their run cannot be read.
    """
    start = _without_values(config, classes)
    return start is None or start.anew != ""


def _without_values(config: ModelConfig, classes: int) -> WarmStart | None:
    """Return the weights that a configuration's network starts from, without drawing the network's
    own: it is built on the meta device. None where it starts from no weights, or the file of the
    weights is not there.

    Raises:
        Refused: The weights cannot be read or do not fit, they were trained with another padding or
            epsilon of BatchNorm, or the configuration or the record of their run cannot be read.
    """
    if not config.weights:
        return None
    try:
        weights_file(config.weights)
    except Refused:
        return None
    with torch.device("meta"):
        network = build(config, classes)
    return warm_start(config, network)


def _refuse_other_constants(config: ModelConfig, trained: ModelConfig, where: str) -> None:
    """Refuse a padding or an epsilon of BatchNorm with which weights would compute something else.

    BatchNorm's momentum may differ: it says how fast running statistics follow, not what the
    weights compute.

    Args:
        config: The configuration of the network that is to start from the weights.
        trained: The configuration with which they were trained.
        where: The weights' source, for the error.

    Raises:
        Refused: Padding or epsilon differ.
    """
    differing = [
        name for name in ("padding", "bn_eps") if getattr(config, name) != getattr(trained, name)
    ]
    if differing:
        configured = ", ".join(f"model.{name} {getattr(config, name)}" for name in differing)
        options = " ".join(f"--model.{name} {getattr(trained, name)}" for name in differing)
        raise Refused(f"{where}: trained with other constants than {configured}; set {options}")


def _classes(state: State) -> int:
    """Return the number of classes of the classifier in a state; 0 for one without a classifier."""
    head = state.get("classifier.weight", state.get("classifier.bias"))
    return head.shape[0] if head is not None and head.ndim else 0


def _with_drawn_top(state: State, drawn: State) -> tuple[State, str]:
    """Replace the classifier, and those fully connected layers before it that do not fit.

    Args:
        state: The source's weights.
        drawn: The network's drawn weights.

    Returns:
        The weights of the source with those of the network in place of the replaced ones; and which
        layers are drawn and why, in words.
    """
    replaced = _layers_of_top_to_draw(state, drawn)
    kept = {name: value for name, value in state.items() if _module(name) not in replaced}
    fresh = {name: value for name, value in drawn.items() if _module(name) in replaced}
    names = [module for module in replaced if f"{module}.weight" in drawn]
    theirs, ours = _classes(state), _classes(drawn)
    why = f"{theirs:,} classes there, {ours:,} here" if theirs else "there is none there"
    verb = "is" if len(names) == 1 else "are"
    return kept | fresh, f"{', '.join(names)} {verb} drawn anew ({why})"


def _layers_of_top_to_draw(state: State, drawn: State) -> list[str]:
    """Return the names of the layers of the top whose weights are not taken from the source: the
    classifier, and each fully connected layer that only one of the states has, or that has another
    shape in the other. ``state`` are the source's weights, and ``drawn`` the network's own.
    """

    def fits(module: str) -> bool:
        for name in (f"{module}.weight", f"{module}.bias"):
            if name not in state or name not in drawn or state[name].shape != drawn[name].shape:
                return False
        return True

    in_top = [name for name in [*drawn, *state] if name.startswith(("fc.", "classifier."))]
    top = dict.fromkeys(map(_module, in_top))
    return [module for module in top if module == "classifier" or not fits(module)]


def _module(name: str) -> str:
    """Return the name of the module that a weight belongs to, from the weight's name."""
    return name.rpartition(".")[0]


def _record(file: Path, source: str) -> Record | None:
    """Return the record of the run whose weights a file holds; None where the weights are not those
    of a run, as where ``source`` is ``Keras`` or ``timm``, or the run has not finished.

    Raises:
        Refused: The record is damaged.
    """
    if source != "xceptlab":
        return None
    run = RunDirectory.around(file)
    return run.record() if run else None


def _has_seen_validation(file: Path, record: Record | None, data: DataConfig) -> bool:
    """Whether the run whose weights a file holds may have trained on images that are held out for
    validation in these data.

    With the same data it may if it held out other images, or if its record says the same of the
    weights that it started from itself. Where the validation images are a part of their own, only
    the record counts. With other files of a user's data set it may, since a photograph that is
    added or renamed changes which ones are held out, unless the classes of both are known and none
    is the same. False with another data set, without validation images here, and where the data of
    that run are not known.

    Args:
        file: The file of the weights.
        record: The record of that run; None where there is none.
        data: The data of the training that is to start from the weights.
    """
    run = RunDirectory.around(file)
    if run is None or not data.has_validation_images:
        return False
    try:
        theirs = load_file(DataConfig, str(run.path / "config.yaml"), "data")
    except Refused:
        # It is a data set that a module registers which is not loaded here.
        return False
    if theirs.name != data.name:
        return False
    if theirs.content != data.content:
        return not _are_distinct(record.classes if record else (), class_names(data))
    has_inherited = record is not None and SEEN in record.weights
    has_own_part = data.validation == 0
    same_split = all(getattr(theirs, name) == getattr(data, name) for name in SPLIT)
    return has_inherited or not (has_own_part or same_split)


def _are_distinct(theirs: Sequence[str], ours: Sequence[str]) -> bool:
    """Whether the names of classes show that no class of one data set is one of the other; they do
    not where either set's are not known.
    """
    return bool(theirs and ours) and set(theirs).isdisjoint(ours)


def _source(
    file: Path, source: str, record: Record | None, config: ModelConfig, trained: ModelConfig | None
) -> str:
    """Return in words where weights come from, and which values of the fields in ``FUNCTION`` they
    were trained with that differ from the present network's, or that some settings are not known.

    Args:
        file: The file of the weights.
        source: ``Keras``, ``timm`` or ``xceptlab``.
        record: The record of the run that trained them; None where there is none.
        config: The configuration of the network that is to start from them.
        trained: The configuration with which they were trained; None where it is not known.
    """
    words = f"the run {record.run_id}" if record else f"{file.name} ({source})"
    if not trained:
        return f"{words}, whose padding and bn_eps are not known"
    differing = [name for name in FUNCTION if getattr(trained, name) != getattr(config, name)]
    if not differing:
        return words
    settings = [f"{name} {getattr(trained, name)}" for name in differing]
    return f"{words}, trained with {', '.join(settings)}"
