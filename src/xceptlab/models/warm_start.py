"""The weights from which a training starts in place of drawn ones: ``model.weights``."""

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

from xceptlab.config.schema import ModelConfig
from xceptlab.data.identity import weights_file
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
"""Fields of ``ModelConfig`` that change what weights compute; not all of them show in the weights'
names and shapes.
"""


@dataclass(frozen=True, kw_only=True)
class WarmStart:
    """The weights that a training starts from."""

    state: State
    """All weights of the network, by name."""
    source: str
    """Source of the weights in words, as the record keeps it."""
    anew: str
    """Layers that are drawn all the same, and why, in words; empty where every weight is the
    source's.
    """
    classes: tuple[str, ...] = ()
    """Names of the classifier's classes, by label, where they are known and the classifier is the
    source's.
    """

    def __str__(self) -> str:
        return f"starts from {self.source}; {self.anew or 'every weight is theirs, also those of the classifier'}"


def warm_start(config: ModelConfig, network: nn.Module) -> WarmStart | None:
    """Read the weights of ``model.weights`` for a network with drawn ones, which is not changed;
    None without ``model.weights``.

    Where the number of classes differs, the classifier is drawn, and so are optional fully
    connected layers that do not fit.

    Args:
        config: The network's configuration, which is never changed to fit the weights.
        network: The network; it may be on the meta device, to see only whether the weights fit.

    Raises:
        Refused: The weights are not there, cannot be read or do not fit, or were trained with other
            constants.
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
    )


def check(config: ModelConfig, classes: int) -> None:
    """Refuse weights that a training could not start from; those that are not at hand are left to
    the training.

    Raises:
        Refused: The weights cannot be read or do not fit, or were trained with other constants.
    """
    if not config.weights:
        return
    try:
        weights_file(config.weights)
    except ValueError:
        return
    with torch.device("meta"):
        network = build(config, classes)
    warm_start(config, network)


def _refuse_other_constants(config: ModelConfig, trained: ModelConfig, where: str) -> None:
    """Refuse constants with which the weights would compute something else.

    BatchNorm's momentum may differ: it says how fast running statistics follow, not what the
    weights compute.

    Raises:
        Refused: Padding or BatchNorm's epsilon differ.
    """
    differing = [
        name for name in ("padding", "bn_eps") if getattr(config, name) != getattr(trained, name)
    ]
    if differing:
        configured = ", ".join(f"model.{name} {getattr(config, name)}" for name in differing)
        options = " ".join(f"--model.{name} {getattr(trained, name)}" for name in differing)
        raise Refused(f"{where}: trained with other constants than {configured}; set {options}")


def _classes(state: State) -> int:
    """Number of the classifier's units in a state; 0 without a classifier."""
    head = state.get("classifier.weight", state.get("classifier.bias"))
    return head.shape[0] if head is not None and head.ndim else 0


def _with_drawn_top(state: State, drawn: State) -> tuple[State, str]:
    """Replace the layers of a state's top that do not fit by drawn ones; returns also which these
    are and why, in words.
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
    """Names of the classifier, and of those fully connected layers before it that only one state
    has, or in another shape.
    """

    def fits(module: str) -> bool:
        names = (f"{module}.weight", f"{module}.bias")
        return all(
            name in state and name in drawn and state[name].shape == drawn[name].shape
            for name in names
        )

    top = dict.fromkeys(
        _module(name) for name in [*drawn, *state] if name.startswith(("fc.", "classifier."))
    )
    return [module for module in top if module == "classifier" or not fits(module)]


def _module(name: str) -> str:
    """The module that a weight belongs to, by the weight's name."""
    return name.rpartition(".")[0]


def _record(file: Path, source: str) -> Record | None:
    """The record of the run whose weights a file holds; None where they are of no run that is done."""
    run = RunDirectory.around(file)
    return run.record() if run and source == "xceptlab" else None


def _source(
    file: Path, source: str, record: Record | None, config: ModelConfig, trained: ModelConfig | None
) -> str:
    """Source of weights in words and, as far as it is known, in which settings their network
    computed something else.
    """
    words = f"the run {record.run_id}" if record else f"{file.name} ({source})"
    if not trained:
        return f"{words}, whose padding and bn_eps are not known"
    differing = [name for name in FUNCTION if getattr(trained, name) != getattr(config, name)]
    if not differing:
        return words
    return f"{words}, trained with {', '.join(f'{name} {getattr(trained, name)}' for name in differing)}"
