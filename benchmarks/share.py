"""How several networks share one GPU: the steps of 1, 2, 3, 4, 6 and 8 at a time, all captured in
CUDA graphs.

Run: xceptlab bench share [--most N] [--seconds S] [--write]. Each trains the network of
``configs/model/xception_cifar.yaml`` on batches of 256 ready images of 32x32 in bf16. Three ways: a
process each; a stream each of one process; and a process each under NVIDIA's Multi-Process Service,
where it can be started. Prints images per second of all together, their ratio to one alone in the
same way, and the memory. ``--write`` puts it into benchmarks/results/share.md. Without a GPU it
only shows that it works.
"""

import argparse
import multiprocessing
import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import date
from multiprocessing.connection import Connection
from pathlib import Path

import torch
from torch import nn
from torch.nn import functional as F

from _measure import synchronise
from xceptlab.config.schema import ModelConfig
from xceptlab.models.build import build
from xceptlab.training.provenance import device_name

CUDA = torch.cuda.is_available()
DEVICE = torch.device("cuda" if CUDA else "cpu")
BATCH = 256 if CUDA else 4
NETWORK = ModelConfig(width=0.5 if CUDA else 0.125, stem="cifar", bn_momentum=0.1)
AHEAD = 4
"""Steps of each network that are given to the GPU before the first of them is waited for."""


def main() -> None:
    parser = argparse.ArgumentParser(prog="xceptlab bench share")
    parser.add_argument("--most", type=int, default=8 if CUDA else 2, help="networks at a time")
    parser.add_argument("--seconds", type=float, default=2.0, help="of each measurement")
    parser.add_argument(
        "--write", action="store_true", help="put the table into benchmarks/results/"
    )
    options = parser.parse_args()
    numbers = [n for n in (1, 2, 3, 4, 6, 8) if n <= options.most]
    lines = [
        "# Several networks on one GPU",
        "",
        f"{date.today()}, {device_name(DEVICE)}, {os.cpu_count()} cores, torch {torch.__version__}; `xceptlab bench share`:",
        f"xception_cifar at 32x32, batch {BATCH}, bf16, captured steps; images/s of all together (against one alone).",
        "",
        "| | " + " | ".join(f"{n} at a time" for n in numbers) + " |",
        "|---|" + "---:|" * len(numbers),
    ]
    print("\n".join(lines), flush=True)
    ways: dict[str, Callable[[], list[float]]] = {
        "a process each": lambda: processes(numbers, options.seconds),
        "a stream each of one process": lambda: streams(numbers, options.seconds),
        "a process each, Multi-Process Service": lambda: served(numbers, options.seconds),
    }
    for name, way in ways.items():
        try:
            rates = way()
            row = (
                f"| {name} | "
                + " | ".join(f"{rate:,.0f} ({rate / rates[0]:.2f})" for rate in rates)
                + " |"
            )
        except (RuntimeError, OSError, EOFError) as error:
            row = f"| {name} | not measured: {error} |"
        lines.append(row)
        print(row, flush=True)
    if CUDA:
        lines += ["", memory()]
        print(lines[-1])
    if options.write:
        (Path(__file__).parent / "results/share.md").write_text(
            "\n".join([*lines, ""]), encoding="utf-8"
        )


def step_of(seed: int) -> Callable[[], None]:
    """One training step of a network of its own; on a GPU a graph's replay."""
    network = build(NETWORK, 10, seed).to(DEVICE, memory_format=torch.channels_last).train()
    optimizer = torch.optim.SGD(network.parameters(), 0.01, momentum=0.9)
    images = (
        torch.rand(BATCH, 3, 32, 32, device=DEVICE)
        .mul(2)
        .sub(1)
        .contiguous(memory_format=torch.channels_last)
    )
    labels = torch.randint(0, 10, (BATCH,), device=DEVICE)

    def once() -> None:
        trained(network, optimizer, images, labels)

    if not CUDA:
        return once

    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):
        for _ in range(3):
            once()
    stream.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        once()

    # a graph works where the network lay when it was captured
    def replay(keeps: Callable[[], None] = once) -> None:
        graph.replay()

    return replay


def trained(
    network: nn.Module, optimizer: torch.optim.Optimizer, images: torch.Tensor, labels: torch.Tensor
) -> None:
    """Forward, loss, backward, step."""
    with torch.autocast(DEVICE.type, torch.bfloat16, cache_enabled=False):
        loss = F.cross_entropy(network(images), labels)
    optimizer.zero_grad(set_to_none=False)
    loss.backward()
    optimizer.step()


def processes(numbers: list[int], seconds: float) -> list[float]:
    """Images per second of so many processes at a time; all are started once, and the first n of
    them measured.
    """
    context = multiprocessing.get_context("spawn")
    pairs = [context.Pipe() for _ in range(max(numbers))]
    workers = [
        context.Process(target=worker, args=(theirs, seed), daemon=True)
        for seed, (_, theirs) in enumerate(pairs)
    ]
    for one in workers:
        one.start()
    ours = [mine for mine, _ in pairs]
    try:
        for connection in ours:
            if not connection.poll(40):
                raise RuntimeError("a process did not come up in 40 s")
            connection.recv()
        rates = []
        for n in numbers:
            begin = time.time() + 0.2
            for connection in ours[:n]:
                connection.send((begin, seconds))
            rates.append(sum(connection.recv() for connection in ours[:n]))
        return rates
    finally:
        for one in workers:
            one.kill()
            one.join()


def worker(connection: Connection, seed: int) -> None:
    """A process: capture a step, then measure it whenever the other side says from when and for how
    long.
    """
    torch.set_num_threads(1)
    step = step_of(seed)
    step()
    synchronise()
    connection.send("ready")
    while True:
        begin, seconds = connection.recv()
        time.sleep(max(0.0, begin - time.time()))
        connection.send(rate([step], seconds))


def served(numbers: list[int], seconds: float) -> list[float]:
    """As ``processes``, their kernels run side by side by NVIDIA's Multi-Process Service."""
    if not CUDA:
        raise RuntimeError("there is no GPU")
    with service():
        return processes(numbers, seconds)


@contextmanager
def service() -> Iterator[None]:
    """The service's daemon, for the processes that start meanwhile.

    Raises:
        RuntimeError: It is not there or does not start.
    """
    daemon = shutil.which(
        "nvidia-cuda-mps-control",
        path=f"{os.environ.get('PATH', '')}:/usr/local/nvidia/bin:/usr/bin",
    )
    if not daemon:
        raise RuntimeError("nvidia-cuda-mps-control is not installed")
    with tempfile.TemporaryDirectory() as folder:
        places = {"CUDA_MPS_PIPE_DIRECTORY": folder, "CUDA_MPS_LOG_DIRECTORY": folder}
        started = subprocess.run(
            [daemon, "-d"], env=os.environ | places, capture_output=True, text=True, timeout=20
        )
        if started.returncode:
            raise RuntimeError(
                f"nvidia-cuda-mps-control: {started.stderr.strip() or started.stdout.strip()}"
            )
        os.environ.update(places)
        try:
            yield
        finally:
            for name in places:
                del os.environ[name]
            subprocess.run(
                [daemon],
                input="quit\n",
                env=os.environ | places,
                text=True,
                capture_output=True,
                timeout=20,
            )


def streams(numbers: list[int], seconds: float) -> list[float]:
    """Images per second of so many networks of this process, each on a stream of its own."""
    steps = [step_of(seed) for seed in range(max(numbers))]
    return [rate(steps[:n], seconds) for n in numbers]


def rate(steps: list[Callable[[], None]], seconds: float) -> float:
    """Images per second of steps done side by side for so long, each of a network never more than
    ``AHEAD`` before the GPU.
    """
    lanes = [torch.cuda.Stream() for _ in steps] if CUDA else [None] * len(steps)
    given: list[list[torch.cuda.Event]] = [[] for _ in steps]
    synchronise()
    start, done = time.perf_counter(), 0
    while time.perf_counter() - start < seconds:
        for step, lane, events in zip(steps, lanes, given, strict=True):
            if lane is None:
                step()
            else:
                if len(events) >= AHEAD:
                    events.pop(0).synchronize()
                with torch.cuda.stream(lane):
                    step()
                events.append(lane.record_event())
            done += 1
    synchronise()
    return done * BATCH / (time.perf_counter() - start)


def memory() -> str:
    """What one process takes of the GPU."""
    taken = torch.cuda.max_memory_reserved() / 2**30
    total = torch.cuda.get_device_properties(DEVICE).total_memory / 2**30
    return f"All networks in one process took {taken:.1f} of {total:.0f} GiB, beyond what the driver takes of each process."


if __name__ == "__main__":
    main()
