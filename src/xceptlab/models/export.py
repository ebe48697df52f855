"""A network for other tools: ONNX, torch.export's program, or timm's checkpoint. The suffix of the file decides."""

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
from xceptlab.models.pretrained import CONSTANTS, restore, to_timm
from xceptlab.runs.directory import RunDirectory

TOLERANCE = 1e-4
"""Largest difference of onnxruntime's logits from ours, in standard deviations of ours."""

BATCH = ({0: torch.export.Dim("batch")},)
"""The dimension of the images that is free."""

PHOTOGRAPHS = ("imagenet", "folder")
"""Data sets whose images are cropped before they are evaluated; those of others have the size already."""

ONNX = ("onnx", "onnxscript", "onnxruntime")


def export(config: RunConfig, weights: str | Path, output: Path) -> str:
    """Write the network with these weights; what was written and how far it was checked, in words.

    Images are (batch, 3, size, size), normalised to the range -1 to 1; the size is ``data.size``, the batch is free.

    Raises:
        Refused: The weights do not fit, the format does not have this network, or what was made computes something else.
    """
    if not output.parent.is_dir():
        raise Refused(f"{output}: there is no folder {output.parent}")
    if output.suffix == ".onnx" and (absent := [name for name in ONNX if not RequirementCache(name)]):
        raise Refused(f"{output}: ONNX needs {', '.join(absent)} (pip install 'xceptlab[onnx]')")
    network, model = restore(config.model, config.data.classes, weights)
    told = metadata(config, model, weights)
    if output.suffix == ".safetensors":
        _refuse_what_timm_lacks(model, output)
        state = {name: value.contiguous() for name, value in to_timm(network.state_dict()).items()}
        write_atomically(output, safetensors.torch.save(state, {"format": "pt"} | told))
        return f"{output}: timm's legacy_xception, {len(state)} tensors"
    side = config.data.size
    cost(model, config.data.classes, side)  # refuses a size that the network does not take
    images = torch.rand(2, 3, side, side, generator=torch.Generator().manual_seed(0)) * 2 - 1
    logits = _outputs(network.eval(), images)
    if output.suffix == ".pt2":
        write_atomically(output, _program(network, images, told))
        return f"{output}: torch.export's program, images (batch, 3, {side}, {side})"
    data = _onnx(network, images, told)
    difference = ((_onnxruntime(data, images) - logits).abs().max() / logits.std()).item()
    if not difference < TOLERANCE:
        raise Refused(f"{output}: not written: onnxruntime's logits differ by {difference:.2g} sd (allowed: {TOLERANCE:g})")
    write_atomically(output, data)
    return f"{output}: ONNX, images (batch, 3, {side}, {side}); onnxruntime's logits differ by {difference:.2g} sd"


def metadata(config: RunConfig, model: ModelConfig, weights: str | Path) -> dict[str, str]:
    """What is needed to use the network, as every format keeps it: text by key. docs/export.md explains the keys.

    Args:
        config: What the network is exported with.
        model: The network, with the constants of the weights' source.
        weights: Where they come from; the record of a run tells more.
    """
    record = next((found for folder in Path(weights).parents[:2] if (found := RunDirectory(folder).record())), None)
    side = config.data.size
    photographs = config.data.name in PHOTOGRAPHS
    told = {
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
        told["interpolation"] = config.data.eval_interpolation
        told["exif_orientation"] = "applied" if config.data.exif_orientation else "ignored"
    if record:
        told["run_id"] = record.run_id
    class_names = record.classes if record else []
    if class_names:
        told["class_names"] = json.dumps(class_names)
    return told


@torch.no_grad()
def _outputs(network: Callable[[Tensor], Tensor], images: Tensor) -> Tensor:
    """The logits of one, two and four images in turn: the program was made with two."""
    return torch.cat([network(images[:1]), network(images), network(torch.cat([images, images.flip(-1)]))])


def _refuse_what_timm_lacks(model: ModelConfig, output: Path) -> None:
    """A checkpoint says neither the padding nor an activation, so the configuration has to be the one that timm computes."""
    if model.timm:
        raise Refused(f"{output}: model.timm is {model.timm}, whose model.safetensors has timm's layout already")
    theirs = ModelConfig(**CONSTANTS["timm"])
    other = {
        f.name: (getattr(theirs, f.name), getattr(model, f.name))
        for f in dataclasses.fields(ModelConfig)
        if f.name not in ("bn_momentum", "dropout", "init", "match") and getattr(theirs, f.name) != getattr(model, f.name)
    }
    if other:
        told = ", ".join(f"model.{name} {ours} (timm: {timms})" for name, (timms, ours) in other.items())
        flags = " ".join(f"--model.{name} {timms}" for name, (timms, _) in other.items())
        anyway = f"; to write it as if it had timm's, add {flags}" if other.keys() <= {"padding", "bn_eps"} else ""
        raise Refused(f"{output}: timm's legacy_xception would compute something else, since this one has {told}{anyway}")


@torch.no_grad()
def _program(network: nn.Module, images: Tensor, told: dict[str, str]) -> bytes:
    buffer = io.BytesIO()
    with _quiet():
        torch.export.save(torch.export.export(network, (images,), dynamic_shapes=BATCH), buffer, extra_files=dict(told))
    return buffer.getvalue()


@torch.no_grad()
def _onnx(network: nn.Module, images: Tensor, told: dict[str, str]) -> bytes:
    with _quiet():
        program = torch.onnx.export(
            network,
            (images,),
            dynamo=True,
            verbose=False,
            dynamic_shapes=BATCH,
            input_names=["images"],
            output_names=["logits"],
        )
    assert program is not None
    model = program.model_proto
    for key, value in told.items():
        model.metadata_props.add(key=key, value=value)
    return model.SerializeToString()


def _onnxruntime(data: bytes, images: Tensor) -> Tensor:
    """What onnxruntime computes."""
    import onnxruntime

    session = onnxruntime.InferenceSession(data, providers=["CPUExecutionProvider"])
    return _outputs(lambda batch: torch.as_tensor(session.run(None, {"images": batch.numpy()})[0]), images)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Without the exporters' remarks on torch's own decompositions."""
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(logging.NOTSET)
