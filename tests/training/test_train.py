"""One run: what it leaves behind, and that it comes out the same whatever happens to it."""

import ctypes
import errno
import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import pytorch_lightning as pl
import safetensors.torch
import torch
from PIL import Image

import processes
from conftest import ROOT, TINY
from made import photographs
from xceptlab import cli, register
from xceptlab.config.loading import load_run
from xceptlab.data import resolved
from xceptlab.data.module import Batch, DataModule
from xceptlab.runs.directory import RunDirectory
from xceptlab.runs.leases import Busy
from xceptlab.training import checkpoints, lightning, tracking
from xceptlab.training.task import Task
from xceptlab.training.train import configure_process, evaluate, train


def directory(config):
    return RunDirectory.of(config.runtime.outputs, config.run_id)


def weights(config):
    return (directory(config).path / "model.safetensors").read_bytes()


def test_a_run_leaves_all_that_the_report_needs(tiny):
    config = tiny()
    record = train(config, progress=False)
    path = directory(config).path
    assert sorted(p.name for p in path.iterdir()) == [
        "config.yaml", "data.json", "metrics.jsonl", "model.safetensors", "record.json",
        "test_correct.npy", "test_loss.npy", "test_top5.npy",
    ]  # fmt: skip
    assert directory(config).record() == record
    assert record.status == "finished"
    assert set(record.metrics) == {
        f"{split}/{m}" for split in ("val", "test") for m in ("top1", "top5", "loss")
    }
    assert (record.steps, record.world_size, record.test_images, record.precision) == (
        10,
        1,
        101,
        "32-true",
    )
    assert record.science == config.science()
    assert record.versions["torch"] == torch.__version__
    assert record.train_images + record.validation_images == 300
    assert record.host == socket.gethostname()
    assert record.registrations == []
    data = DataModule(config)
    data.setup("fit")
    most = np.unique(data.test.source.labels[data.test.members], return_counts=True)[1].max()
    assert record.majority_class["test/top1"] == pytest.approx(100 * most / 101)
    assert record.majority_class.keys() == {"val/top1", "test/top1"}
    correct = np.load(path / "test_correct.npy")
    assert correct.dtype == np.uint8
    assert correct.shape == (101,)
    assert 100 * correct.mean() == pytest.approx(record.metrics["test/top1"], abs=1e-12)
    top5, loss = np.load(path / "test_top5.npy"), np.load(path / "test_loss.npy")
    assert (top5.dtype, loss.dtype) == (np.uint8, np.float32)
    assert (top5 >= correct).all()
    assert 100 * top5.mean() == pytest.approx(record.metrics["test/top5"], abs=1e-12)
    assert loss.mean(dtype=np.float64) == pytest.approx(record.metrics["test/loss"], rel=1e-6)


def test_a_compiled_run_is_another_run_and_of_equal_blocks_compiles_one(tiny, monkeypatch):
    """Without a compiler behind the graphs, as it is slow on a CPU; so it comes to the bits of a
    run that is not compiled.
    """
    graphs, torch_compile = [], torch.compile

    def backend(graph, inputs):
        graphs.append(graph)
        return graph.forward

    monkeypatch.setattr(
        torch,
        "compile",
        lambda function, **options: torch_compile(function, backend=backend, **options),
    )
    options = (
        "--model.middle_blocks=3",
        "--data.train_images=64",
        "--data.test_images=64",
        "--data.validation=0",
    )
    plain, compiled = (
        tiny(*options, "--train.ema=0.9"),
        tiny(*options, "--train.ema=0.9", "--train.compile=true"),
    )
    train(plain, progress=False)
    assert not graphs
    train(compiled, progress=False)
    # for training and for the test: the entry flow, a block of the middle flow, the exit flow
    assert len(graphs) == 2 * 3
    assert plain.run_id != compiled.run_id
    assert weights(plain) == weights(compiled)


@pytest.mark.parametrize("deterministic", ["true", "false"])
def test_a_run_uses_deterministic_algorithms_unless_its_configuration_says_otherwise(
    deterministic, tiny
):
    train(tiny(f"--train.deterministic={deterministic}"), progress=False)
    assert str(torch.are_deterministic_algorithms_enabled()).lower() == deterministic


@pytest.mark.parametrize(
    ("classes", "metrics"),
    [(3, {"top1", "loss"}), (5, {"top1", "loss"}), (6, {"top1", "top5", "loss"})],
)
def test_top5_is_a_metric_of_more_than_5_classes(tiny, tmp_path, classes, metrics):
    root = photographs(tmp_path / "photographs", "abcdef"[:classes], train=4, val=2)
    data = (
        "--data.name=folder",
        f"--data.num_classes={classes}",
        "--data.crop=resized",
        f"--data.root={root}",
    )
    config = tiny(
        *data,
        "--data.train_images=0",
        "--data.test_images=0",
        "--data.validation=0",
        "--train.epochs=1",
    )
    record = train(config, progress=False)
    assert record.metrics.keys() == {f"test/{name}" for name in metrics}
    assert {
        name for line in directory(config).log() for name in line if name.startswith("test/")
    } == record.metrics.keys()
    weights = directory(config).path / "model.safetensors"
    assert evaluate(config, weights, "test") == pytest.approx(record.metrics)


def test_the_log_has_every_step_and_every_evaluation(tiny):
    config = tiny()
    train(config, progress=False)
    lines = directory(config).log()
    assert [line["step"] for line in lines if "train/loss" in line] == list(range(1, 11))
    assert [line["epoch"] for line in lines if "val/top1" in line] == [1.0, 2.0]
    assert [line["epoch"] for line in lines if "test/top1" in line] == [2.0]


class Ends(pl.Callback):
    """Ends a training after a step."""

    def __init__(self, step: int) -> None:
        self.step = step

    def on_train_batch_end(self, trainer, *_):
        trainer.should_stop = trainer.global_step == self.step


@pytest.mark.parametrize(
    ("last_step", "epochs", "said"),
    [
        (2, [0.4], ["0.4"]),
        (5, [1.0], ["1"]),
        (8, [1.0, 1.6], ["1", "1.6"]),
        (10, [1.0, 2.0], ["1", "2"]),
    ],
)
def test_where_a_callback_ends_the_training_within_an_epoch_its_evaluation_stands_there(
    last_step, epochs, said, tiny, monkeypatch, capfd
):
    monkeypatch.setattr(register, "_entries", {})
    register.callback("ends", version=1)(lambda config: Ends(last_step))
    config = tiny("--train.callbacks=[ends]")
    train(config, progress=False)
    lines = directory(config).log()
    assert [line["epoch"] for line in lines if "val/top1" in line] == epochs
    assert [line["epoch"] for line in lines if "train/loss" in line][-1] == epochs[-1]
    assert [line["epoch"] for line in lines if "test/top1" in line] == epochs[-1:]
    printed = capfd.readouterr().out
    assert re.findall(r"^epoch (.*) of 2 done: val/", printed, re.M) == said


def test_a_run_that_has_its_record_is_not_trained_again_and_what_a_kill_left_then_goes(tiny):
    config = tiny()
    first = train(config, progress=False)
    (directory(config).path / "checkpoints").mkdir()
    assert train(config, progress=False) == first
    assert not (directory(config).path / "checkpoints").exists()


@pytest.mark.parametrize("change", [(), ("--runtime.workers=2",), ("--runtime.log_every=7",)])
def test_same_science_same_bits(tiny, made, tmp_path, change):
    science = (*made, "--data.flip=true", "--model.dropout=0.3", "--train.ema=0.9")
    one = tiny(*science)
    two = tiny(*science, f"--runtime.outputs={tmp_path / 'again'}", *change)
    a, b = train(one, progress=False), train(two, progress=False)
    assert weights(one) == weights(two)
    assert a.metrics == b.metrics


def test_another_seed_gives_another_run(tiny):
    one, two = tiny("--seed=1"), tiny("--seed=2")
    train(one, progress=False)
    train(two, progress=False)
    assert weights(one) != weights(two)


@pytest.mark.parametrize("precision", ["bf16-mixed", "64-true"])
def test_precisions_train(tiny, precision):
    record = train(tiny(f"--train.precision={precision}"), progress=False)
    assert (record.status, record.precision) == ("finished", precision)


@pytest.mark.parametrize("optimizer", ["rmsprop", "adamw"])
def test_optimizers_train(tiny, optimizer):
    config = tiny(
        f"--train.optimizer={optimizer}",
        "--train.nesterov=false",
        "--train.lr=0.001",
        "--train.decay_norm_bias=false",
    )
    assert train(config, progress=False).status == "finished"


def test_accumulated_batches_step_once_for_all(tiny):
    record = train(tiny("--train.accumulate=2"), progress=False)
    assert record.steps == 10


@pytest.mark.parametrize("name", ["train/loss", "test/loss"])
def test_a_run_whose_log_lacks_its_curves_is_not_finished(tiny, monkeypatch, name):
    config = tiny()
    log = tracking.LocalLog.log_metrics
    monkeypatch.setattr(
        tracking.LocalLog,
        "log_metrics",
        lambda self, line, step=None: None if name in line else log(self, line, step),
    )
    with pytest.raises(OSError, match=f"metrics.jsonl: no line has {name}"):
        train(config, progress=False)
    assert directory(config).record() is None


def test_without_validation_a_run_has_test_metrics_only(tiny):
    record = train(tiny("--data.validation=0"), progress=False)
    assert set(record.metrics) == {"test/top1", "test/top5", "test/loss"}


def test_the_evaluated_weights_are_the_average(tiny, tmp_path):
    plain, averaged = tiny(), tiny("--train.ema=0.5", f"--runtime.outputs={tmp_path / 'ema'}")
    train(plain, progress=False)
    record = train(averaged, progress=False)
    a, b = (safetensors.torch.load(weights(config)) for config in (plain, averaged))
    assert not torch.equal(a["classifier.weight"], b["classifier.weight"])
    again = evaluate(averaged, directory(averaged).path / "model.safetensors", "test")
    assert again["test/top1"] == record.metrics["test/top1"]


def test_no_checkpoint_holds_the_average_in_place_of_the_weights(tiny, monkeypatch):
    saved = []
    save = checkpoints.CheckpointFiles.save_checkpoint

    def remember(self, checkpoint, path, storage_options=None):
        saved.append(
            {
                key: {k: v.clone() for k, v in checkpoint[key].items()}
                for key in ("state_dict", "current_model_state")
            }
        )
        save(self, checkpoint, path, storage_options)

    monkeypatch.setattr(checkpoints.CheckpointFiles, "save_checkpoint", remember)
    train(tiny("--train.ema=0.9"), progress=False)
    train(tiny("--train.ema=0.2"), progress=False)
    name = "network.classifier.weight"
    # the decay changes the averages, not the training
    for a, b in zip(saved[:2], saved[2:], strict=True):
        assert torch.equal(a["current_model_state"][name], b["current_model_state"][name])
        assert not torch.equal(a["state_dict"][name], b["state_dict"][name])


def test_evaluate_repeats_the_record(tiny):
    config = tiny()
    record = train(config, progress=False)
    file = directory(config).path / "model.safetensors"
    for split in ("test", "val"):
        for name, value in evaluate(config, file, split).items():
            assert record.metrics[name] == pytest.approx(value, rel=1e-6)


def test_weights_that_do_not_fit_are_refused_by_name(tiny):
    config = tiny()
    train(config, progress=False)
    file = directory(config).path / "model.safetensors"
    with pytest.raises(ValueError, match="has shape"):
        evaluate(tiny("--model.width=0.25"), file, "test")
    with pytest.raises(ValueError, match=r"skip.* is missing|is unexpected"):
        evaluate(tiny("--model.residual=none"), file, "test")


@pytest.mark.parametrize("name", ["weights.safetensors", "weights.ckpt"])
def test_a_file_that_holds_no_weights_is_refused(tiny, tmp_path, name):
    (tmp_path / name).write_bytes(b"not weights at all")
    with pytest.raises(ValueError, match="not a readable weight file"):
        evaluate(tiny(), tmp_path / name, "test")


def test_a_checkpoint_that_would_execute_code_is_refused(tiny, tmp_path):
    class Evil:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "owned"),)

    torch.save({"state_dict": Evil()}, tmp_path / "evil.ckpt")
    with pytest.raises(ValueError, match="not a readable weight file"):
        evaluate(tiny(), tmp_path / "evil.ckpt", "test")
    assert not (tmp_path / "owned").exists()


def test_the_progress_bar_counts_epochs_from_1_as_the_log_does(tiny, monkeypatch):
    shown = []
    describe = lightning.ProgressBar._get_train_description
    monkeypatch.setattr(
        lightning.ProgressBar,
        "_get_train_description",
        lambda *args: shown.append(describe(*args)) or shown[-1],
    )
    train(tiny(), progress=True)
    assert [text.strip() for text in dict.fromkeys(shown)] == ["Epoch 1/2", "Epoch 2/2"]


def test_a_diverged_run_is_a_result_and_said_in_one_line(tiny, capsys):
    config = tiny("--train.lr=1e30", "--train.warmup=0")
    record = train(config, progress=False)
    assert (record.status, record.metrics) == ("diverged", {})
    said = capsys.readouterr().err
    assert f"Warning: {config.run_id} diverged: " in said
    assert "UserWarning" not in said
    assert not (directory(config).path / "model.safetensors").exists()


def test_a_run_that_diverges_in_its_last_step_is_no_result_of_0(tiny):
    """Its training loss was finite; only the evaluation is not."""
    config = tiny(
        "--train.epochs=1",
        "--train.batch_size=1000",
        "--train.lr=1e38",
        "--train.warmup=0",
        "--train.schedule=constant",
    )
    record = train(config, progress=False)
    assert (record.status, record.metrics) == ("diverged", {})


def test_a_loss_that_was_not_finite_between_two_lines_of_the_log_is_not_forgotten(
    tiny, monkeypatch
):
    step = Task.training_step
    monkeypatch.setattr(
        Task,
        "training_step",
        lambda self, batch, i: (
            (out := step(self, batch, i)) | {"loss": out["loss"] / (1 - (i == 1))}
        ),
    )
    assert train(tiny("--runtime.log_every=50"), progress=False).status == "diverged"


def test_16_bit_floats_on_a_cpu_are_refused_before_anything_is_written(tiny):
    config = tiny("--train.precision=16-mixed")
    with pytest.raises(ValueError, match=r"train.precision: 16-mixed needs a GPU"):
        train(config, progress=False)
    assert not directory(config).path.exists()


def test_accumulated_batches_are_logged_as_one(tiny, tmp_path):
    whole, parts = (
        tiny("--train.lr=1e-12"),
        tiny("--train.lr=1e-12", "--train.accumulate=3", f"--runtime.outputs={tmp_path / 'b'}"),
    )
    for config in (whole, parts):
        train(config, progress=False)
    lines = [
        [line for line in directory(config).log() if "train/loss" in line]
        for config in (whole, parts)
    ]
    assert [line["step"] for line in lines[1]] == list(range(1, 11))
    assert all(0 <= line["train/top1"] <= 100 for line in lines[1])
    # BatchNorm sees other batches, so the losses agree but roughly; a sum in place of a mean would
    # be 3 times as large
    for a, b in zip(*lines, strict=True):
        assert b["train/loss"] == pytest.approx(a["train/loss"], rel=0.3)


def test_a_run_interrupted_after_its_last_checkpoint_keeps_its_validation_and_its_speed(
    tiny, monkeypatch
):
    import pytorch_lightning as pl

    config = tiny()
    with monkeypatch.context() as patch:
        patch.setattr(pl.Trainer, "test", lambda *args, **kwargs: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            train(config, progress=False)
    record = train(config, progress=False)
    assert {"val/top1", "test/top1"} <= set(record.metrics)
    assert record.images_per_second > 0
    assert record.seconds > 0


@pytest.mark.parametrize("workers", [0, 1])
def test_a_corrupt_photograph_is_one_line_from_any_process(tmp_path, capsys, workers):
    for split in ("train", "val"):
        for name in ("n01", "n02"):
            (tmp_path / split / name).mkdir(parents=True)
            for i in range(8):
                Image.new("RGB", (40, 40)).save(tmp_path / split / name / f"{i}.png")
    (tmp_path / "train" / "n02" / "3.png").write_bytes(b"no image")
    code = cli.main([
        "train", "-c", str(ROOT / "configs/data/folder.yaml"),
        f"--data.root={tmp_path}", "--data.num_classes=2", "--data.size=24",
        "--data.validation=0", "--model.width=0.05", "--model.middle_blocks=0", "--model.stem=cifar", "--train.batch_size=8",
        f"--runtime.workers={workers}", f"--runtime.outputs={tmp_path}", "--runtime.wandb=disabled", "--runtime.accelerator=cpu",
    ])  # fmt: skip
    assert code == 2
    (line,) = [
        line for line in capsys.readouterr().err.splitlines() if line.startswith("xceptlab: ")
    ]
    assert "3.png: no readable image" in line


def test_devices_that_are_not_there_are_bad_input(tiny):
    if torch.cuda.is_available():
        pytest.skip("this machine has a GPU")
    with pytest.raises(ValueError, match=r"runtime.accelerator gpu"):
        train(tiny("--runtime.accelerator=gpu"), progress=False)


def test_a_run_that_another_process_trains_is_left_alone(tiny):
    config = tiny()
    directory(config).create()
    with directory(config).locked(), pytest.raises(Busy, match="another process"):
        train(config, progress=False)


def test_a_full_disk_ends_in_one_line_and_no_record(tiny, monkeypatch, capsys):
    config = tiny()

    def full(file_descriptor):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    outputs = f"--runtime.outputs={config.runtime.outputs}"
    assert cli.main(["train", *TINY, outputs]) == 1
    assert capsys.readouterr().err.strip().splitlines()[-1].endswith("No space left on device")
    assert [p for p in directory(config).path.rglob("*") if p.is_file()] == []


# ---- in processes of their own: signals, kills, two ranks ----------------------------------------


def wait_for_epoch(process, outputs, epoch):
    """Wait until the run has logged this epoch's evaluation."""
    deadline = time.monotonic() + 300
    while time.monotonic() < deadline and process.is_alive():
        for log in Path(outputs).glob("runs/*/metrics.jsonl"):
            lines = [
                json.loads(line)
                for line in log.read_text().splitlines(keepends=True)
                if line.endswith("\n")
            ]
            if any(line["epoch"] >= epoch and "val/top1" in line for line in lines):
                return
        time.sleep(0.02)
    raise AssertionError(f"the run ended or hung before epoch {epoch}")


INTERRUPTED = (
    "--train.epochs=5",
    "--model.dropout=0.2",
    "--train.ema=0.9",
    "--data.crop=pad",
    "--data.pad=1",
)


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    """The run that the interrupted ones are to come to, which nothing has interrupted."""
    config = resolved(
        load_run(
            [*TINY, *INTERRUPTED, f"--runtime.outputs={tmp_path_factory.mktemp('undisturbed')}"]
        )
    )
    train(config, progress=False)
    return config


@pytest.mark.parametrize(
    ("number", "code"),
    [(signal.SIGHUP, 75), (signal.SIGINT, 130), (signal.SIGKILL, -signal.SIGKILL)],
)
def test_an_interrupted_run_continues_to_the_same_bits(tiny, undisturbed, tmp_path, number, code):
    arguments = ["train", *TINY, f"--runtime.outputs={tmp_path / 'outputs'}", *INTERRUPTED]
    process = processes.start(arguments, tmp_path / "printed", main=processes.slow_after_two_epochs)
    wait_for_epoch(process, tmp_path / "outputs", 2)
    os.kill(process.pid, number)
    process.join(300)
    assert process.exitcode == code
    assert "Traceback" not in (tmp_path / "printed" / "stderr").read_text()
    config = tiny(*INTERRUPTED)
    assert directory(config).record() is None
    assert checkpoints.newest(directory(config).path / "checkpoints")
    train(config, progress=False)
    assert weights(config) == weights(undisturbed)
    timeless = [
        [
            {k: v for k, v in line.items() if k not in ("time", "seconds", "images_per_second")}
            for line in directory(c).log()
        ]
        for c in (config, undisturbed)
    ]
    assert timeless[0] == timeless[1]


def test_two_processes_train_and_count_every_test_image_once(tiny, tmp_path, fresh_xceptlab):
    done = fresh_xceptlab(
        "train", *TINY, f"--runtime.outputs={tmp_path / 'outputs'}", "--runtime.devices=2"
    )
    assert done.returncode == 0, done.stderr
    config = tiny()
    record = directory(config).record()
    assert record.world_size == 2
    assert done.stdout.count(config.run_id) == 1
    correct = np.load(directory(config).path / "test_correct.npy")
    assert correct.shape == (101,)
    assert record.metrics["test/top1"] == pytest.approx(100 * correct.mean(), abs=1e-12)
    loss = np.load(directory(config).path / "test_loss.npy")
    assert record.metrics["test/loss"] == pytest.approx(loss.mean(dtype=np.float64), rel=1e-6)
    one_process = evaluate(config, directory(config).path / "model.safetensors", "test")
    assert one_process["test/top1"] == record.metrics["test/top1"]
    assert one_process["test/loss"] == pytest.approx(record.metrics["test/loss"], rel=1e-6)


def test_a_run_that_an_older_version_began_starts_anew_and_says_so(tiny, capsys):
    config = tiny("--train.epochs=1")
    RunDirectory.of(config.runtime.outputs, config.id_in(1)).create()
    train(config, progress=False)
    assert (
        f"{config.run_id}: an older version, whose results differ, began it; it starts anew"
        in capsys.readouterr().err
    )


def test_lightnings_launcher_leaves_each_of_several_processes_its_threads(tiny, monkeypatch):
    """It would share the cores out, and another number of threads sums in another order."""
    from lightning_fabric.utilities.distributed import _set_num_threads_if_needed

    monkeypatch.setenv("OMP_NUM_THREADS", "9")
    monkeypatch.delenv("OMP_NUM_THREADS")
    configure_process(tiny("--train.threads=3"))
    _set_num_threads_if_needed(num_processes=1)
    assert torch.get_num_threads() == 3
    configure_process(tiny())


def test_mixed_images_count_for_both_labels_as_a_soft_target_would(tiny):
    """Against cross-entropy with probabilities, label smoothing included."""
    config = tiny("--train.label_smoothing=0.1")
    task = Task(config, torch.nn.Flatten(), 1, 1)
    images, labels, own = (
        torch.randn(5, 10),
        torch.tensor([1, 2, 3, 4, 5]),
        torch.tensor([0.7, 0.7, 0.9, 0.9, 1.0]),
    )
    batch = Batch(images, labels, torch.arange(5), label_weight=own, weight=0.2, replaced=0)
    targets = torch.zeros(5, 10)
    for i, partner in enumerate((1, 0, 3, 2, 4)):
        targets[i, labels[i]] += own[i]
        targets[i, labels[partner]] += 1 - own[i]
    wanted = torch.nn.functional.cross_entropy(images, targets, label_smoothing=0.1)
    assert float(task.training_step(batch, 0)["loss"]) == pytest.approx(float(wanted), rel=1e-5)


@pytest.mark.skipif(not hasattr(ctypes.CDLL(None), "mallopt"), reason="glibc's malloc is not here")
def test_memory_that_a_step_frees_stays_for_the_next_one():
    """In a process of its own, as the heap of a thread that is not its first is managed otherwise."""
    program = """
import resource, torch
from xceptlab.config.loading import load_run
from xceptlab.training.train import configure_process
def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    [torch.ones(3 * 2**21) for _ in range(4)]  # 24 MiB each, in pages of 4 KiB
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
configure_process(load_run([]))
print(*(faults() for _ in range(5)))
"""
    found = subprocess.run([sys.executable, "-c", program], stdout=subprocess.PIPE, check=True)
    _, *later = map(int, found.stdout.split())
    assert sum(later) < 20_000  # some 49,000 where freed memory goes back to the system
