"""Captured steps: the logic around the graphs, which on a CPU are work that is simply done again.

What only a GPU can show, that a CUDA graph comes to the same bits, `make gpu` shows; each run
checks it for itself, too.
"""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import safetensors.torch
import torch
from pytorch_lightning.callbacks import GradientAccumulationScheduler
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map_

from xceptlab import register
from xceptlab.config.schema import RunConfig
from xceptlab.data.module import Batch
from xceptlab.runs.directory import RunDirectory
from xceptlab.training import capture
from xceptlab.training import train as runs
from xceptlab.training.train import train

VARIANTS = {
    "plain": [],
    "dropout and the average of weights": ["--model.dropout=0.4", "--train.ema=0.9"],
    "clipping": ["--train.gradient_clip=0.1"],
    "two batches a step": ["--train.accumulate=2"],
    "three batches a step": ["--train.accumulate=3", "--model.dropout=0.4"],
    "mixed images": ["--data.mixup=0.4", "--data.cutmix=1.0", "--data.cutout=4"],
    "bf16": ["--train.precision=bf16-mixed"],
    "adamw": ["--train.optimizer=adamw", "--train.nesterov=false", "--train.lr=0.002"],
}
"""Runs whose last batch of an epoch is smaller than the others (300 images in batches of 64)."""


def again(work: Callable[[], None]) -> Callable[[], None]:
    """A recorder for CPUs."""
    return work


class Kernels(TorchDispatchMode):
    """Lists the kernels that torch launches, with their arguments and results."""

    def __init__(self) -> None:
        super().__init__()
        self.launched: list[tuple[Any, tuple[Any, ...], dict[str, Any], Any]] = []
        self.before: list[tuple[torch.Tensor, torch.Tensor]] = []
        """The arguments that are tensors, each with a copy from before its kernel."""

    def __torch_dispatch__(self, kernel, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        for value in tree_leaves((args, kwargs)):
            if isinstance(value, torch.Tensor):
                self.before.append((value.detach(), value.clone()))
        result = kernel(*args, **kwargs)
        self.launched.append((kernel, args, kwargs, result))
        return result


def kernel_by_kernel(work: Callable[[], None]) -> Callable[[], None]:
    """A recorder for CPUs that, as a CUDA graph does, repeats kernels on the tensors of when they
    were recorded, and nothing that Python does between them. Recording changes nothing.
    """
    with Kernels() as kernels:
        work()
    for tensor, value in reversed(kernels.before):
        tensor.copy_(value)

    @torch.no_grad()
    def replay() -> None:
        for kernel, args, kwargs, result in kernels.launched:
            again = kernel(*args, **kwargs)
            writes_or_views = any(value.alias_info for value in kernel._schema.returns)
            if not writes_or_views:
                tree_map_(copy, result, again)

    return replay


def copy(result: Any, again: Any) -> None:
    if isinstance(result, torch.Tensor):
        result.detach().copy_(again)


def left(config: RunConfig) -> tuple[dict[str, torch.Tensor], list[dict[str, float]]]:
    """Weights and curves of a run, without what depends on the clock."""
    directory = RunDirectory.of(config.runtime.outputs, config.run_id).path
    clock = ("time", "seconds", "images_per_second")
    lines = [json.loads(line) for line in (directory / "metrics.jsonl").read_text().splitlines()]
    curves = [{key: value for key, value in line.items() if key not in clock} for line in lines]
    return safetensors.torch.load_file(directory / "model.safetensors"), curves


def trained(
    tiny, folder: Path, *options: str
) -> tuple[dict[str, torch.Tensor], list[dict[str, float]]]:
    config = tiny(
        "--train.epochs=4", "--train.batch_size=64", f"--runtime.outputs={folder}", *options
    )
    train(config, progress=False)
    return left(config)


def assert_equal(a, b) -> None:
    assert a[1] == b[1]
    assert [name for name in a[0] if not torch.equal(a[0][name], b[0][name])] == []


@pytest.fixture
def replays(monkeypatch) -> dict[str, list[bool]]:
    """Lets runs on a CPU replay their work; by kind for every batch whether it was replayed or
    captured.
    """
    monkeypatch.setattr(capture, "recorder", lambda trainer, config: again)
    seen: dict[str, list[bool]] = {"training steps": [], "evaluations": []}
    call = capture.Captured.__call__

    def counted(work, batch, variant=False):
        outputs = call(work, batch, variant)
        seen[work.work].append(outputs is not None)
        return outputs

    monkeypatch.setattr(capture.Captured, "__call__", counted)
    return seen


@pytest.mark.parametrize("name", VARIANTS)
def test_replayed_steps_come_to_the_same_bits(name, tiny, tmp_path, replays):
    options = VARIANTS[name]
    with_graphs = trained(tiny, tmp_path / "with", *options)
    for replayed in replays.values():
        assert 0 < sum(replayed) < len(replayed)  # the first of each shape are done one by one
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(capture, "recorder", lambda trainer, config: None)
        without = trained(tiny, tmp_path / "without", *options)
    assert_equal(with_graphs, without)


def test_frozen_parameters_and_those_without_a_part_in_the_loss_are_left_alone(
    tiny, tmp_path, replays, monkeypatch
):
    def build(config):
        network = built(config)
        network.unused = torch.nn.Linear(3, 3)
        network.entry.stem.conv1.weight.requires_grad_(False)
        return network

    built = runs.build
    monkeypatch.setattr(runs, "build", build)
    with_graphs = trained(tiny, tmp_path / "with", "--train.weight_decay=0.1")
    assert any(replays["training steps"])
    monkeypatch.setattr(capture, "recorder", lambda trainer, config: None)
    assert_equal(with_graphs, trained(tiny, tmp_path / "without", "--train.weight_decay=0.1"))


class Anneals(pl.Callback):
    """Changes a number that the network reads when it computes."""

    def on_train_epoch_start(self, trainer, pl_module):
        for module in pl_module.modules():
            if isinstance(module, nn.Dropout):
                module.p = 0.4 / (1 + trainer.current_epoch)


@pytest.mark.parametrize("make", [Anneals, lambda: GradientAccumulationScheduler({1: 2})])
def test_with_a_callback_which_may_change_what_is_computed_nothing_is_captured(
    make, tiny, tmp_path, monkeypatch, capfd
):
    monkeypatch.setattr(register, "_entries", {})
    register.callback("changes", version=1)(lambda config: make())
    options = ["--train.callbacks=[changes]", "--model.dropout=0.4"]
    without = trained(tiny, tmp_path / "without", *options)
    monkeypatch.setattr(capture, "recorder", lambda trainer, config: kernel_by_kernel)
    assert_equal(trained(tiny, tmp_path / "with", *options), without)
    said = (
        "training steps are launched kernel by kernel, not replayed from a CUDA graph: a callback"
    )
    assert capfd.readouterr().err.count(said) == 1


class Centred(nn.Module):
    """A layer that counts in a buffer, into which it puts a new tensor at each batch."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(4))

    def forward(self, x):
        if self.training:
            self.mean = 0.9 * self.mean + 0.1 * x.detach().mean(0)
        return x - self.mean


class CentredTwice(Centred):
    """Its buffer may lie where it did before, as memory that is free is used again."""

    def forward(self, x):
        return super().forward(super().forward(x))


class Bounded(nn.Module):
    """A layer that bounds its weights itself, when it computes."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(4))

    def forward(self, x):
        self.weight.data = self.weight.data.clamp(-0.5, 0.5)
        return x * self.weight


def bound(network: nn.Module, step: int) -> None:
    """Put new tensors in the place of the weights after each step, as some optimizers do."""
    for parameter in network.parameters():
        parameter.data = parameter.data.clamp(-0.1, 0.1)


def unfreeze(network: nn.Module, step: int) -> None:
    network[1].requires_grad_(step >= 5)


def freeze(network: nn.Module, step: int) -> None:
    network[1].requires_grad_(step < 5)


def drop_bias(network: nn.Module, step: int) -> None:
    if step == 5:
        network[1].bias = None


def leave(network: nn.Module, step: int) -> None:
    """Change nothing."""


CHANGES = {
    "nothing": (lambda: nn.BatchNorm1d(4), leave),
    "a buffer, by its layer": (Centred, leave),
    "a buffer, by its layer, twice": (CentredTwice, leave),
    "weights, by their layer": (Bounded, leave),
    "weights": (nn.Identity, bound),
    "frozen weights": (nn.Identity, unfreeze),
    "weights that are frozen then": (nn.Identity, freeze),
    "weights that are removed": (nn.Identity, drop_bias),
}
"""What is replaced in a network, with its first layer and with what happens after each step."""


def batches() -> list[Batch]:
    generator = torch.Generator().manual_seed(0)
    images = [torch.randn(3, 4, generator=generator) + 5 for _ in range(8)]
    return [Batch(x, torch.tensor([0, 1, 0]), torch.arange(3), None, 1.0, 0) for x in images]


def steps_of(change: str, record: capture.Recorder | None) -> tuple[list[bool], list[Any]]:
    """Train a small network; returns for each batch whether it was captured or replayed, and then
    what it came to: the losses, the network's state and an evaluation of it after each step.
    """
    layer, after_step = CHANGES[change]
    torch.manual_seed(0)
    network = nn.Sequential(layer(), nn.Linear(4, 4), nn.Linear(4, 2))
    after_step(network, 0)

    def logits(batch):
        return {"logits": network(batch.images)}

    def loss(batch):
        return {"loss": nn.functional.cross_entropy(network(batch.images), batch.labels)}

    optimizer = torch.optim.SGD(network.parameters(), lr=1.0)
    step = capture.CapturedStep(loss, network, record, 1) if record else lambda *_: None
    inference = capture.Captured(logits, network, record) if record else lambda _: None
    captured, results = [], []
    for number, batch in enumerate(batches(), start=1):
        outputs = step(batch, True)
        captured.append(outputs is not None)
        if outputs is None:
            optimizer.zero_grad()
            outputs = loss(batch)
            outputs["loss"].backward()
        results.append(outputs["loss"].detach().clone())
        optimizer.step()
        after_step(network, number)
        with torch.no_grad():
            network.eval()
            results.append((inference(batch) or logits(batch))["logits"].clone())
            network.train()
        results += [value.clone() for value in network.state_dict().values()]
    return captured, results


def test_weights_that_are_frozen_before_the_first_capture_are_not_trained(monkeypatch):
    def freeze_at_warm_up(network, step):
        network[1].requires_grad_(step < capture.WARM_UP)

    monkeypatch.setitem(CHANGES, "early", (nn.Identity, freeze_at_warm_up))
    monkeypatch.setattr(torch, "are_deterministic_algorithms_enabled", lambda: True)
    captured, with_graphs = steps_of("early", kernel_by_kernel)
    _, without = steps_of("early", None)
    assert captured[-1]
    assert all(map(torch.equal, with_graphs, without))


@pytest.mark.parametrize("change", CHANGES)
def test_no_graph_is_replayed_on_tensors_that_are_the_networks_no_more(change, monkeypatch, capfd):
    monkeypatch.setattr(torch, "are_deterministic_algorithms_enabled", lambda: True)
    captured, with_graphs = steps_of(change, kernel_by_kernel)
    _, without = steps_of(change, None)
    assert all(map(torch.equal, with_graphs, without))
    said = capfd.readouterr().err
    if change == "nothing":
        assert captured == [False] * capture.WARM_UP + [True] * 6
        assert said == ""
    else:
        assert not captured[-1]
        assert (
            said.count(
                f"training steps are launched kernel by kernel, not replayed from a CUDA graph: {capture.REPLACED}"
            )
            == 1
        )
        assert said.count("evaluations are") <= 1


@pytest.mark.parametrize("change", ["a buffer, by its layer", "weights, by their layer"])
def test_a_layer_that_replaces_its_tensors_is_noticed_also_without_a_comparison_of_bits(
    change, monkeypatch
):
    monkeypatch.setattr(torch, "are_deterministic_algorithms_enabled", lambda: False)
    captured, with_graphs = steps_of(change, kernel_by_kernel)
    assert not captured[-1]
    assert all(map(torch.equal, with_graphs, steps_of(change, None)[1]))


def test_a_continued_run_comes_to_the_same_bits(tiny, tmp_path, replays, monkeypatch):
    options = ["--model.dropout=0.4", "--train.ema=0.9", "--runtime.checkpoint_steps=3"]
    whole = trained(tiny, tmp_path / "whole", *options)
    call, batches = capture.Captured.__call__, []

    def interrupted(self, batch, variant=False):
        batches.append(None)
        if len(batches) == 11:
            raise RuntimeError("the machine is gone")
        return call(self, batch, variant)

    with monkeypatch.context() as patch:
        patch.setattr(capture.Captured, "__call__", interrupted)
        with pytest.raises(RuntimeError, match="the machine is gone"):
            trained(tiny, tmp_path / "halved", *options)
    assert_equal(trained(tiny, tmp_path / "halved", *options), whole)


@pytest.mark.parametrize("kind", ["refuses", "computes something else"])
def test_where_capturing_fails_the_run_goes_on_without_and_says_so_once(
    kind, tiny, tmp_path, monkeypatch, capfd
):
    def recorder(work):
        if kind == "refuses":
            raise RuntimeError("operation not permitted when stream is capturing\nand more")

        def wrong() -> None:
            work()
            steps[0]._gradients[0].mul_(1.001)

        return wrong

    steps = []
    monkeypatch.setattr(capture, "recorder", lambda trainer, config: recorder)
    original = capture.CapturedStep.__init__
    monkeypatch.setattr(
        capture.CapturedStep,
        "__init__",
        lambda step, *args: (steps.append(step), original(step, *args))[1],
    )
    fallen_back = trained(tiny, tmp_path / "fallen", "--model.dropout=0.4")
    said = capfd.readouterr().err
    assert (
        said.count("training steps are launched kernel by kernel, not replayed from a CUDA graph: ")
        == 1
    )
    monkeypatch.setattr(capture, "recorder", lambda trainer, config: None)
    assert_equal(fallen_back, trained(tiny, tmp_path / "without", "--model.dropout=0.4"))


def test_no_graph_outlives_the_place_of_the_weights(tiny, tmp_path, replays, monkeypatch):
    """After training the Trainer moves the weights off the device and, for the test, to other
    addresses on it.
    """
    made = []
    original = capture.Captured.__init__
    monkeypatch.setattr(
        capture.Captured,
        "__init__",
        lambda work, *args: (made.append(work.work), original(work, *args))[1],
    )
    trained(tiny, tmp_path)
    assert made == ["training steps", "evaluations", "evaluations"]


def test_a_cpu_captures_nothing(tiny, tmp_path, capfd):
    trained(tiny, tmp_path)
    assert "CUDA graph" not in capfd.readouterr().err
