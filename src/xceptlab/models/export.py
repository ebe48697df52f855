"""A network for other tools: ONNX, torch.export's program, or timm's checkpoint. The suffix of the
file decides.
"""

import contextlib
import dataclasses
import io
import json
import logging
import warnings
from collections.abc import Callable, Iterator
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
from xceptlab.models.pretrained import CONSTANTS, restore
from xceptlab.runs.directory import RunDirectory

TOLERANCE = 1e-4
"""Largest allowed difference of onnxruntime's logits from torch's, in standard deviations of
torch's.
"""

DYNAMIC_SHAPES = ({0: torch.export.Dim("batch")},)
"""Dynamic axes of the network's input (batch, 3, size, size): only the number of images may vary.
"""

PHOTOGRAPHS = ("imagenet", "folder")
"""Data sets whose images are cropped before they are evaluated; those of others have the network's
size already.
"""

ONNX_PACKAGES = ("onnx", "onnxscript", "onnxruntime")


def export(config: RunConfig, weights: str | Path, output: Path) -> str:
    """Write a network for other tools, in the format that the file's suffix names.

    It takes images (batch, 3, size, size), normalised to the range -1 to 1; the size is
    ``data.size``, the batch is free.

    Args:
        config: The run's configuration.
        weights: A file of weights, or timm's name of its Xception.
        output: The file to write.

    Returns:
        What was written and how far it was checked, in words.

    Raises:
        Refused: The weights do not fit, the format does not have this network, or what was made
            computes something else.
    """
    if not output.parent.is_dir():
        raise Refused(f"{output}: there is no folder {output.parent}")
    if output.suffix == ".onnx":
        _require_onnx(output)
    network, model = restore(config.model, config.data.classes, weights)
    about = metadata(config, model, weights)
    if output.suffix == ".safetensors":
        return _write_for_timm(network, model, about, output)
    side = config.data.size
    cost(model, config.data.classes, side)  # refuses a size that the network does not take
    network.eval()
    images = torch.rand(2, 3, side, side, generator=torch.Generator().manual_seed(0)) * 2 - 1
    if output.suffix == ".pt2":
        write_atomically(output, _program(network, images, about))
        return f"{output}: torch.export's program, images (batch, 3, {side}, {side})"
    difference = _write_onnx(network, images, about, output)
    return f"{output}: ONNX, images (batch, 3, {side}, {side}); onnxruntime's logits differ by {difference:.2g} sd"


def _require_onnx(output: Path) -> None:
    absent = [name for name in ONNX_PACKAGES if not RequirementCache(name)]
    if absent:
        raise Refused(f"{output}: ONNX needs {', '.join(absent)} (pip install 'xceptlab[onnx]')")


def _write_onnx(network: nn.Module, images: Tensor, about: dict[str, str], output: Path) -> float:
    """Write the ONNX file; returns the largest difference of onnxruntime's logits from torch's, in
    standard deviations.

    Raises:
        Refused: The difference is not below ``TOLERANCE``; nothing is written.
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
    _refuse_what_timm_lacks(model, output)
    state = {name: value.contiguous() for name, value in to_timm(network.state_dict()).items()}
    write_atomically(output, safetensors.torch.save(state, {"format": "pt"} | about))
    return f"{output}: timm's legacy_xception, {len(state)} tensors"


def metadata(config: RunConfig, model: ModelConfig, weights: str | Path) -> dict[str, str]:
    """Metadata that is needed to use the network, as texts by key, for every format; docs/export.md
    explains the keys.

    Args:
        config: The configuration that the network is exported with.
        model: The network, with the constants of the weights' source.
        weights: The file of weights; a record of the run beside it adds the run's id and the names
            of the classes.
    """
    records = [RunDirectory(folder).record() for folder in Path(weights).parents[:2]]
    record = next(filter(None, records), None)
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
    """The logits (7, classes) of batches of one, two and four images: a program made with two must
    take any number.
    """
    one = network(images[:1])
    two = network(images)
    four = network(torch.cat([images, images.flip(-1)]))
    return torch.cat([one, two, four])


def _refuse_what_timm_lacks(model: ModelConfig, output: Path) -> None:
    """Raise a Refused for a network other than timm's: its checkpoint could name neither the
    padding nor an activation.
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
    flags = []
    only_constants = True
    for name, value in dataclasses.asdict(model).items():
        if name in ("bn_momentum", "dropout", "init", "match") or value == timms[name]:
            continue
        differences.append(f"model.{name} {value} (timm: {timms[name]})")
        flags.append(f"--model.{name} {timms[name]}")
        only_constants = only_constants and name in ("padding", "bn_eps")
    if not differences:
        return
    message = f"{output}: timm's legacy_xception would compute something else, since this one has {', '.join(differences)}"
    if only_constants:
        message += f"; to write it as if it had timm's, add {' '.join(flags)}"
    raise Refused(message)


@torch.no_grad()
def _program(network: nn.Module, images: Tensor, about: dict[str, str]) -> bytes:
    """Bytes of the file of torch.export's program, with its metadata."""
    buffer = io.BytesIO()
    with _quiet():
        program = torch.export.export(network, (images,), dynamic_shapes=DYNAMIC_SHAPES)
        torch.export.save(program, buffer, extra_files=dict(about))
    return buffer.getvalue()


@torch.no_grad()
def _onnx(network: nn.Module, images: Tensor, about: dict[str, str]) -> bytes:
    """Bytes of the ONNX file, with its metadata."""
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
    """The logits (7, classes) of ``_outputs`` as onnxruntime computes them from an ONNX file."""
    import onnxruntime

    session = onnxruntime.InferenceSession(data, providers=["CPUExecutionProvider"])

    def network(batch: Tensor) -> Tensor:
        (logits,) = session.run(None, {"images": batch.numpy()})
        return torch.as_tensor(logits)

    return _outputs(network, images)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Silence the exporters' remarks on torch's own decompositions."""
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(logging.NOTSET)
