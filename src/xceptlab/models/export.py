"""Exporting a network for other tools, as ONNX, as a program of torch.export or as timm's
checkpoint; the suffix of the file says which.
"""

import contextlib
import dataclasses
import io
import json
import logging
import warnings
from collections.abc import Callable, Collection, Iterator
from pathlib import Path

import safetensors.torch
import torch
from lightning_utilities.core.imports import RequirementCache
from torch import Tensor, nn

import xceptlab
from xceptlab.config.schema import ModelConfig, RunConfig
from xceptlab.errors import Refused
from xceptlab.files import write_atomically
from xceptlab.models.cost import cost
from xceptlab.models.names import to_timm
from xceptlab.models.pretrained import CONSTANTS, restore, with_published_preprocessing
from xceptlab.runs.directory import RunDirectory

TOLERANCE = 1e-4
"""Bound on the largest difference between onnxruntime's and torch's logits, in standard deviations
of torch's.
"""

DYNAMIC_SHAPES = ({0: torch.export.Dim("batch")},)
"""Dynamic axes of the network's input (batch, 3, size, size): only the number of images may vary.
"""

PHOTOGRAPHS = ("imagenet", "folder")
"""Data sets whose images are cropped and resized for evaluation; the images of all others have the
network's size.
"""

ONNX_PACKAGES = ("onnx", "onnxscript", "onnxruntime")
"""Packages that writing ONNX files needs, the extra ``onnx``."""


def export(
    config: RunConfig, weights: str | Path, output: Path, given: Collection[str] = ()
) -> str:
    """Write a network for other tools, in the format that the suffix of the file names: ``.onnx``,
    ``.pt2`` (torch.export) or ``.safetensors`` (weights only, as timm's legacy_xception has them).

    The exported network takes images (batch, 3, size, size), normalised to the range -1 to 1. Size
    is ``data.size``; batch may be any number.

    Args:
        config: The run's configuration.
        weights: A file of weights, or timm's name of its Xception.
        output: The file to write, with one of these suffixes.
        given: Dotted keys that the user has set for this export. For timm's weights of Xception the
            metadata have the crop and the interpolation that timm publishes, unless their keys are
            among these or have values other than the defaults.

    Returns:
        What was written and how far it was checked, in words.

    Raises:
        Refused: The weights, or the record of the run that they are of, cannot be read; the weights
            do not fit; a package or the folder for the file is not there; the network does not take
            this size; the format cannot hold the network; or the ONNX file computes something else.
    """
    if not output.parent.is_dir():
        raise Refused(f"{output}: there is no folder {output.parent}")
    if output.suffix == ".onnx":
        _require_onnx(output)
    network, model = restore(config.model, config.data.classes, weights)
    config = with_published_preprocessing(config, weights, given)
    about = metadata(config, model, weights)
    if output.suffix == ".safetensors":
        return _write_for_timm(network, model, about, output)
    side = config.data.size
    # This refuses a size that the network does not take, which torch.export would not explain.
    cost(model, config.data.classes, side)
    network.eval()
    images = torch.rand(2, 3, side, side, generator=torch.Generator().manual_seed(0)) * 2 - 1
    if output.suffix == ".pt2":
        write_atomically(output, _program(network, images, about))
        return f"{output}: torch.export's program, images (batch, 3, {side}, {side})"
    difference = _write_onnx(network, images, about, output)
    return f"{output}: ONNX, images (batch, 3, {side}, {side}); onnxruntime's logits differ by {difference:.2g} sd"


def _require_onnx(output: Path) -> None:
    """Refuse to write an ONNX file where a package for it is not installed."""
    absent = [name for name in ONNX_PACKAGES if not RequirementCache(name)]
    if absent:
        raise Refused(f"{output}: ONNX needs {', '.join(absent)} (pip install 'xceptlab[onnx]')")


def _write_onnx(network: nn.Module, images: Tensor, about: dict[str, str], output: Path) -> float:
    """Write a network as an ONNX file.

    Args:
        network: The network, in eval mode.
        images: Two images (2, 3, size, size) on which torch and onnxruntime are compared.
        about: The file's metadata.
        output: The file.

    Returns:
        The largest difference of onnxruntime's logits from torch's, in standard deviations of
        torch's logits.

    Raises:
        Refused: The difference is not below ``TOLERANCE``. Nothing is written then.
    """
    data = _onnx(network, images, about)
    logits = _outputs(network, images)
    largest_difference = (_onnxruntime(data, images) - logits).abs().max()
    difference = (largest_difference / logits.std()).item()
    if not difference < TOLERANCE:
        raise Refused(
            f"{output}: not written: onnxruntime's logits differ by {difference:.2g} sd (allowed: {TOLERANCE:g})"
        )
    write_atomically(output, data)
    return difference


def _write_for_timm(
    network: nn.Module, model: ModelConfig, about: dict[str, str], output: Path
) -> str:
    """Write the weights of a network as a checkpoint of timm's legacy_xception.

    Args:
        network: The network.
        model: The network's configuration.
        about: The file's metadata.
        output: The file.

    Returns:
        What was written, in words.

    Raises:
        Refused: The network is not Xception, or timm's legacy_xception would compute something else
            with its weights.
    """
    _refuse_what_timm_lacks(model, output)
    state = {name: value.contiguous() for name, value in to_timm(network.state_dict()).items()}
    write_atomically(output, safetensors.torch.save(state, {"format": "pt"} | about))
    return f"{output}: timm's legacy_xception, {len(state)} tensors"


def metadata(config: RunConfig, model: ModelConfig, weights: str | Path) -> dict[str, str]:
    """Return the metadata that an exported file holds in every format: how to use the network, as
    texts by key. docs/export.md explains the keys.

    Args:
        config: The configuration with which the network is exported.
        model: The network's configuration, with the constants of the weights' source.
        weights: The file of weights. If the record of a run is beside it or in the folder above,
            the metadata have the run's id and, if known, the names of its classes.

    Raises:
        Refused: This record is damaged.
    """
    run = RunDirectory.around(Path(weights))
    record = run.record() if run else None
    side = config.data.size
    photographs = config.data.name in PHOTOGRAPHS
    about = {
        "xceptlab": xceptlab.__version__,
        "images": f"(batch, 3, {side}, {side}), RGB, x / 127.5 - 1 of pixels from 0 to 255",
        "size": str(side),
        "range": "[-1, 1]",
        "channels": "RGB",
        "central_crop": f"{config.data.eval_crop:g}" if photographs else "1",
        "classes": str(config.data.classes),
        "model": json.dumps(dataclasses.asdict(model)),
    }
    if photographs:
        about["interpolation"] = config.data.eval_interpolation
        about["exif_orientation"] = "applied" if config.data.exif_orientation else "ignored"
    if record:
        about["run_id"] = record.run_id
    if record and record.classes:
        about["class_names"] = json.dumps(record.classes)
    return about


@torch.no_grad()
def _outputs(network: Callable[[Tensor], Tensor], images: Tensor) -> Tensor:
    """Compute the logits (7, classes) of batches of one, two and four images, made of two images
    (2, 3, size, size). A program that was exported with two images must take any number.
    """
    one = network(images[:1])
    two = network(images)
    four = network(torch.cat([images, images.flip(-1)]))
    return torch.cat([one, two, four])


def _refuse_what_timm_lacks(model: ModelConfig, output: Path) -> None:
    """Refuse to write a network as a checkpoint of timm's legacy_xception if that has other layers
    or would compute something else in eval mode with these weights: a checkpoint holds no padding
    or activation, for example. Fields that matter only before or during training may differ:
    ``init``, ``match``, ``dropout`` and ``bn_momentum``. A timm model (``model.timm``) is refused,
    too, as its weights have timm's layout already. ``output`` is the file that would be written,
    for the error.
    """
    if model.timm:
        raise Refused(
            f"{output}: model.timm is {model.timm}, whose model.safetensors has timm's layout already"
        )
    if model.family != "xception":
        raise Refused(
            f"{output}: timm has no model.family {model.family}; .onnx and .pt2 take any network"
        )
    timms = dataclasses.asdict(ModelConfig(**CONSTANTS["timm"]))
    differences = []
    for name, value in dataclasses.asdict(model).items():
        if name in ("bn_momentum", "dropout", "init", "match") or value == timms[name]:
            continue
        differences.append(f"model.{name} {value} (timm: {timms[name]})")
    if differences:
        raise Refused(
            f"{output}: timm's legacy_xception would compute something else, since this one has {', '.join(differences)}; "
            ".onnx and .pt2 take it as it is"
        )


@torch.no_grad()
def _program(network: nn.Module, images: Tensor, about: dict[str, str]) -> bytes:
    """Export a network in eval mode with torch.export, and return the bytes of the ``.pt2`` file.

    Args:
        network: The network.
        images: Two images (2, 3, size, size) with which the network is traced.
        about: The file's metadata.
    """
    buffer = io.BytesIO()
    with _quiet():
        program = torch.export.export(network, (images,), dynamic_shapes=DYNAMIC_SHAPES)
        torch.export.save(program, buffer, extra_files=dict(about))
    return buffer.getvalue()


@torch.no_grad()
def _onnx(network: nn.Module, images: Tensor, about: dict[str, str]) -> bytes:
    """Export a network in eval mode as ONNX, and return the bytes of the ``.onnx`` file.

    Args:
        network: The network.
        images: Two images (2, 3, size, size) with which the network is traced.
        about: The file's metadata.
    """
    with _quiet():
        program = torch.onnx.export(
            network,
            (images,),
            dynamo=True,
            verbose=False,
            dynamic_shapes=DYNAMIC_SHAPES,
            input_names=["images"],
            output_names=["logits"],
        )
    assert program is not None
    model = program.model_proto
    for key, value in about.items():
        model.metadata_props.add(key=key, value=value)
    return model.SerializeToString()


def _onnxruntime(data: bytes, images: Tensor) -> Tensor:
    """Compute with onnxruntime, from the bytes of an ONNX file, the logits (7, classes) of batches
    of one, two and four images, made of two images (2, 3, size, size).
    """
    import onnxruntime

    session = onnxruntime.InferenceSession(data, providers=["CPUExecutionProvider"])

    def network(batch: Tensor) -> Tensor:
        (logits,) = session.run(None, {"images": batch.numpy()})
        return torch.as_tensor(logits)

    return _outputs(network, images)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Silence Python's warnings, and logging up to the level of warnings, inside a ``with``: the
    exporters remark on torch's own decompositions, about which the user can do nothing.
    """
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(logging.NOTSET)
