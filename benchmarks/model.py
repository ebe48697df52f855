"""Training step and inference of Xception beside its peers, in one process, alternating.

Run: xceptlab bench model [--sizes 299 32] [--precisions fp32 bf16] [--write]. The peers are timm's
``legacy_xception`` and Keras's Xception on its torch backend; all three have random weights, as
many images and the same optimizer (SGD with momentum). Each is measured in the memory layouts and
in the ways of running it that the machine has: eager, on a GPU captured in a CUDA graph, and
compiled: ours by its regions, as ``train.compile`` does, timm's as a whole (on a CPU only with
--compiled, as compiling takes minutes there). At 299 the network is the paper's, at 32 it is that
of ``configs/model/xception_cifar.yaml``, which the peers do not have.

Prints images per second with their spread, the ratio to timm's best way round by round, the seconds
of the first step, peak memory, the share of this machine's own ceilings (the largest matrix product
and copy that it was seen to do), and the time by kind of operation. ``--write`` puts it into
benchmarks/results/model-cpu.md or model-gpu.md. About 6 minutes.
"""

import argparse
import copy
import gc
import math
import os
import statistics
import time
from collections import defaultdict
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from datetime import date
from pathlib import Path

os.environ["KERAS_BACKEND"] = "torch"

import timm
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.profiler import ProfilerActivity, profile

from _measure import spread, synchronise
from xceptlab.config.schema import ModelConfig
from xceptlab.models.build import build
from xceptlab.models.cost import cost
from xceptlab.training.provenance import device_name

RESULTS = Path(__file__).parent / "results"
CUDA = torch.cuda.is_available()
DEVICE = torch.device("cuda" if CUDA else "cpu")
PAPER = ModelConfig()
CIFAR = ModelConfig(width=0.5, stem="cifar", bn_momentum=0.1)
CLASSES = {299: 1000, 32: 10}
BATCHES = {299: 128 if CUDA else 8, 32: 256}
ROUNDS = 5 if CUDA else 3
ROUND_SECONDS = 0.5
"""Each round of a way of running repeats its work for about this long, once at least."""


@dataclass
class Way:
    """One network in one way of running it: its work and how fast that was, round by round."""

    name: str
    step: Callable[[], None]
    """One training step, or one batch of inference."""
    images: int
    """Of a step."""
    first: float
    """Seconds of the first step, compiling included where torch's cache has not what is needed."""
    memory: float
    """Gigabytes at the most in a step; on a CPU unknown, NaN."""
    rates: list[float] = field(default_factory=list)
    """Images per second."""


def main() -> None:
    parser = argparse.ArgumentParser(prog="xceptlab bench model")
    parser.add_argument("--sizes", type=int, nargs="+", default=[299, 32], choices=[299, 32])
    parser.add_argument(
        "--precisions",
        nargs="+",
        default=["fp32", "bf16"] if CUDA else ["fp32"],
        choices=["fp32", "bf16"],
    )
    parser.add_argument(
        "--work", nargs="+", default=["step", "inference"], choices=["step", "inference"]
    )
    parser.add_argument(
        "--compiled",
        action="store_true",
        default=CUDA,
        help="measure torch.compile, too (always on a GPU)",
    )
    parser.add_argument(
        "--write", action="store_true", help="put the tables into benchmarks/results/"
    )
    options = parser.parse_args()
    matrix, bandwidth = ceilings()
    lines = [
        "# The network beside its peers",
        "",
        f"{date.today()}, {device_name(DEVICE)}, {os.cpu_count()} cores, torch {torch.__version__}, timm {timm.__version__}.",
        f"`xceptlab bench model`: median of {ROUNDS} alternating rounds with the least and the largest; ratios round by round.",
        "Ceilings seen on this machine in the same process: "
        + ", ".join(f"{rate / 1e12:.2f} TFLOP/s ({name})" for name, rate in matrix.items())
        + f", {bandwidth / 1e9:,.0f} GB/s copied (read and written).",
    ]
    print("\n".join(lines), flush=True)
    for size in options.sizes:
        for precision in options.precisions:
            for work in options.work:
                found = ["", *table(size, precision, work, options.compiled, matrix[precision])]
                release()
                print("\n".join(found), flush=True)
                lines += found
                if options.write:  # after each table, so that an interruption costs one
                    (RESULTS / f"model-{'gpu' if CUDA else 'cpu'}.md").write_text(
                        "\n".join([*lines, ""]), encoding="utf-8"
                    )


def table(size: int, precision: str, work: str, compiled: bool, matrix: float) -> list[str]:
    """Measure every peer in every way at one size, and lay it out in Markdown."""
    batch, classes = BATCHES[size], CLASSES[size]
    ways: list[Way] = []
    for name, network in networks(size):
        ways += ways_of(name, network, size, precision, work, compiled)
    for _ in range(ROUNDS):
        for one in ways:
            one.rates.append(rate(one))
    macs = cost(PAPER if size == 299 else CIFAR, classes, size)[1]
    operations = 2 * macs * (3 if work == "step" else 1)
    theirs = [one for one in ways if one.name.startswith("timm")]
    best = max(theirs, key=lambda one: statistics.median(one.rates)) if theirs else ways[0]
    lines = [
        f"## {work.capitalize()} at {size}x{size}, batch {batch}, {precision}",
        "",
        f"| | images/s | against {best.name} | first step, s | peak GB | of the matrix ceiling |",
        "|---|---:|---:|---:|---:|---:|",
    ]
    for one in ways:
        ratios = [a / b for a, b in zip(one.rates, best.rates, strict=True)]
        share = statistics.median(one.rates) * operations / matrix
        memory = "" if math.isnan(one.memory) else f"{one.memory:.1f}"
        speed = f"{spread(one.rates, ',.1f')} | {spread(ratios, '.2f')}"
        lines.append(f"| {one.name} | {speed} | {one.first:.1f} | {memory} | {100 * share:.0f}% |")
    ours = next(one for one in ways if one.name.startswith("ours"))
    return [*lines, "", f"Time of {ours.name} by kind of operation: {by_kind(ours)}."]


def release() -> None:
    """Give back the memory of networks that are gone, which the next ones would otherwise be
    measured beside, and their code.
    """
    torch._dynamo.reset()
    gc.collect()
    if CUDA:
        torch.cuda.empty_cache()


def networks(size: int) -> list[tuple[str, nn.Module]]:
    """The peers that exist at a size."""
    if size == 32:
        return [("ours", build(CIFAR, CLASSES[32], 0))]
    return [
        ("ours", build(PAPER, CLASSES[299], 0)),
        ("timm", timm.create_model("legacy_xception", num_classes=CLASSES[299])),
        ("Keras", KerasXception(CLASSES[299])),
    ]


class KerasXception(nn.Module):
    """Keras's own Xception on its torch backend, which takes images with their channels last: (N,
    3, H, W) -> logits.
    """

    def __init__(self, classes: int) -> None:
        super().__init__()
        import keras

        self.network = keras.applications.Xception(
            weights=None, classes=classes, classifier_activation=None
        )

    def forward(self, images: Tensor) -> Tensor:
        return self.network(images.permute(0, 2, 3, 1), training=self.training)


def ways_of(
    name: str, network: nn.Module, size: int, precision: str, work: str, compiled: bool
) -> list[Way]:
    """A network's ways of running: eager in both layouts, captured in a CUDA graph, compiled."""
    layouts = {"channels last": torch.channels_last, "contiguous": torch.contiguous_format}
    if name == "Keras" or CUDA:  # Keras has one layout, and on a GPU contiguous is never the best
        layouts = {"channels last": torch.channels_last}
    ways = []
    for layout, memory_format in layouts.items():
        ways.append(way(f"{name}, eager, {layout}", network, memory_format, size, precision, work))
        if name == "Keras" or memory_format != torch.channels_last:
            # its layers look at shapes as they run, which neither graphs nor the compiler follow
            continue
        if CUDA:
            ways.append(
                way(
                    f"{name}, captured",
                    network,
                    memory_format,
                    size,
                    precision,
                    work,
                    captured=True,
                )
            )
        if compiled:
            ways.append(
                way(
                    f"{name}, compiled",
                    network,
                    memory_format,
                    size,
                    precision,
                    work,
                    compiled=True,
                )
            )
    return ways


def way(
    name: str,
    network: nn.Module,
    layout: torch.memory_format,
    size: int,
    precision: str,
    work: str,
    *,
    captured: bool = False,
    compiled: bool = False,
) -> Way:
    """A network, with weights of its own, ready to do its work again and again."""
    network = network if name.startswith("Keras") else copy.deepcopy(network)
    network = network.to(DEVICE, memory_format=layout).train(work == "step")
    if compiled:  # ours by its regions, timm's as a whole
        network.compile(dynamic=False)
    images = (
        torch.rand(BATCHES[size], 3, size, size, device=DEVICE)
        .mul(2)
        .sub(1)
        .contiguous(memory_format=layout)
    )
    labels = torch.randint(0, CLASSES[size], (BATCHES[size],), device=DEVICE)
    optimizer = torch.optim.SGD(network.parameters(), 0.01, momentum=0.9)

    def step() -> None:
        with autocast(precision):
            loss = F.cross_entropy(network(images), labels)
        optimizer.zero_grad(set_to_none=not captured)
        loss.backward()
        optimizer.step()

    @torch.no_grad()
    def infer() -> None:
        with autocast(precision):
            network(images)

    once = step if work == "step" else infer
    first, memory = started(once)
    return Way(name, capture(once) if captured else once, len(images), first, memory)


def autocast(precision: str) -> AbstractContextManager[None]:
    """Mixed precision as ``bf16-mixed`` is, without the cache of cast weights, which a CUDA graph
    cannot keep.
    """
    if precision == "fp32":
        return nullcontext()
    return torch.autocast(DEVICE.type, torch.bfloat16, cache_enabled=False)


def started(once: Callable[[], None]) -> tuple[float, float]:
    """Do the work; seconds of the first time, and the gigabytes that it needed at the most beyond
    what was there (CPU: NaN).
    """
    if CUDA:
        torch.cuda.synchronize()
        before = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
    start = time.perf_counter()
    once()
    synchronise()
    first = time.perf_counter() - start
    if not CUDA:
        return first, math.nan
    for _ in range(2):  # the optimizer's state is there from the second on
        once()
    torch.cuda.synchronize()
    return first, (torch.cuda.max_memory_allocated() - before) / 2**30


def capture(once: Callable[[], None]) -> Callable[[], None]:
    """The work as a CUDA graph; what is returned replays it."""
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(3):
            once()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        once()
    return graph.replay


def rate(one: Way) -> float:
    """Images per second over about ``ROUND_SECONDS``."""
    synchronise()
    start, steps = time.perf_counter(), 0
    while steps == 0 or time.perf_counter() - start < ROUND_SECONDS:
        for _ in range(5 if CUDA else 1):
            one.step()
            steps += 1
        synchronise()
    return one.images * steps / (time.perf_counter() - start)


def ceilings() -> tuple[dict[str, float], float]:
    """Floating-point operations per second of a large matrix product by precision, and bytes per
    second of a large copy.
    """
    side = 8192 if CUDA else 2048
    matrix = {}
    for precision, dtype in (("fp32", torch.float32), ("bf16", torch.bfloat16)):
        a, b = (torch.randn(side, side, device=DEVICE, dtype=dtype) for _ in range(2))
        product = Way("product", lambda a=a, b=b: torch.mm(a, b), 1, 0.0, 0.0)
        rate(product)
        matrix[precision] = 2 * side**3 * max(rate(product) for _ in range(3))
    source = torch.randn(2**28 if CUDA else 2**26, device=DEVICE)
    target = torch.empty_like(source)
    copied = Way("copy", lambda: target.copy_(source), 1, 0.0, 0.0)
    rate(copied)
    return matrix, 2 * source.nbytes * max(rate(copied) for _ in range(3))


KINDS = {
    "batch_norm": "BatchNorm",
    "relu": "ReLU",
    "threshold": "ReLU",
    "max_pool": "max pooling",
    "mm": "matrix products",
    "add": "sums",
}


def by_kind(one: Way) -> str:
    """The shares of the time that a way's work spends in each kind of operation, in words."""
    activities = [ProfilerActivity.CPU] + ([ProfilerActivity.CUDA] if CUDA else [])
    with profile(activities=activities, record_shapes=True) as trace:
        for _ in range(3 if CUDA else 1):
            one.step()
        synchronise()
    spent: dict[str, float] = defaultdict(float)
    for event in trace.key_averages(group_by_input_shape=True):
        spent[kind(event.key, event.input_shapes)] += (
            event.self_device_time_total if CUDA else event.self_cpu_time_total
        )
    total = sum(spent.values())
    largest = sorted(spent.items(), key=lambda item: -item[1])
    return ", ".join(
        f"{name} {100 * seconds / total:.0f}%"
        for name, seconds in largest
        if seconds > 0.01 * total
    )


def kind(operation: str, shapes: list[list[int]]) -> str:
    """The kind of an operation, a convolution's by the shape of its weight (outputs, inputs of a
    group, height, width).
    """
    if "convolution" in operation:
        weight = next(
            (shape for shape in shapes[1:] if len(shape) == 4 and shape[-1] in (1, 3)), None
        )
        direction = " backward" if "backward" in operation else ""
        if weight is None:
            return "other convolutions" + direction
        if weight[1] == 1:
            return "depthwise convolutions" + direction
        return ("pointwise convolutions" if weight[-1] == 1 else "regular convolutions") + direction
    return next((name for part, name in KINDS.items() if part in operation), "other")


if __name__ == "__main__":
    main()
