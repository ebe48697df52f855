"""Captured steps: the logic around the graphs, which on a CPU are work that is simply done again.

What only a GPU can show, that a CUDA graph comes to the same bits, `make gpu` shows; each run
checks it for itself, too.
"""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import safetensors.torch
import torch
from pytorch_lightning.callbacks import GradientAccumulationScheduler

from xceptlab import register
from xceptlab.config.schema import RunConfig
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


def test_steps_of_which_a_callback_changes_how_many_batches_they_gather_are_not_replayed(
    tiny, tmp_path, replays, monkeypatch
):
    monkeypatch.setattr(register, "_entries", {})
    register.callback("gathers", version=1)(lambda config: GradientAccumulationScheduler({1: 2}))
    options = ["--train.callbacks=[gathers]"]
    with_graphs = trained(tiny, tmp_path / "with", *options)
    monkeypatch.setattr(capture, "recorder", lambda trainer, config: None)
    assert_equal(with_graphs, trained(tiny, tmp_path / "without", *options))


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
