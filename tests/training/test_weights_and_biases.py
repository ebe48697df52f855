"""W&B as wandb's own client speaks to a stand-in for its server, and its offline files read back."""

import json
import os
import time
import warnings
from itertools import pairwise

import pytest

import processes
from conftest import TINY
from made import leave
from xceptlab import cli
from xceptlab.config.loading import dump
from xceptlab.runs.directory import RunDirectory
from xceptlab.study.plan import expand
from xceptlab.training import tracking, weights_and_biases
from xceptlab.training.task import Task
from xceptlab.training.train import train

wandb = pytest.importorskip("wandb")

from wandb_server import KEY, Server, offline_history, offline_records  # noqa: E402  (they need wandb)


@pytest.fixture
def server(monkeypatch):
    # an earlier test of this process that was tracked offline had it remember another address
    wandb.teardown()
    with Server() as server:
        monkeypatch.setenv("WANDB_BASE_URL", server.url)
        monkeypatch.setenv("WANDB_API_KEY", KEY)
        monkeypatch.setenv("WANDB_SILENT", "true")
        yield server
    wandb.teardown()  # it remembers the address and the key


def directory(config):
    return RunDirectory.of(config.runtime.outputs, config.run_id)


def log(config):
    """The lines of the local log as they are to be in W&B."""
    lines = directory(config).log()
    kinds = [("test/loss" in line) * 2 + ("val/loss" in line) for line in lines]
    return [
        {"_step": 3 * line["step"] + kind, "_timestamp": line.pop("time"), **line}
        for line, kind in zip(lines, kinds, strict=True)
    ]


def sent(lines):
    return [{name: value for name, value in line.items() if name != "_runtime"} for line in lines]


def wandb_id(config):
    name = (directory(config).path / "wandb_id").read_text()
    assert name.startswith(config.run_id)
    return name


def killed(outputs, ready, *overrides):
    """Start a run in a process of its own, slow from its third epoch on, and kill it once it is
    ``ready()``.
    """
    arguments = ["train", *TINY, f"--runtime.outputs={outputs}", *overrides]
    process = processes.start(
        arguments, outputs.with_name("printed"), main=processes.slow_after_two_epochs
    )
    deadline = time.monotonic() + 300
    while not ready():
        assert time.monotonic() < deadline
        assert process.is_alive(), (outputs.with_name("printed") / "stderr").read_text()
        time.sleep(0.02)
    process.kill()
    process.join()


def crashed(config, steps, monkeypatch):
    """Train a run here until it crashes after so many steps, and let W&B have all that it has
    logged.
    """
    step = Task.training_step
    with monkeypatch.context() as patch:
        patch.setattr(
            Task,
            "training_step",
            lambda self, batch, n: step(self, batch, n if self.global_step < steps else 1 / 0),
        )
        with pytest.raises(ZeroDivisionError):
            train(config, progress=False)
    wandb.finish()


@pytest.mark.parametrize("project", ["", "mine"])
def test_in_a_sweep_each_run_has_its_own_id(tiny, server, monkeypatch, project):
    swept = {
        "SWEEP_ID": "s1",
        "RUN_ID": "the_agents",
        "PROJECT": "theirs",
        "ENTITY": "a_team",
        "NAME": "another",
    }
    for name, value in swept.items():
        monkeypatch.setenv(f"WANDB_{name}", value)
    configs = [
        tiny("--runtime.wandb=online", f"--runtime.wandb_project={project}", f"--seed={seed}")
        for seed in (1, 2)
    ]
    for config in configs:
        train(config, progress=False)
        assert sent(server.histories[wandb_id(config)]) == log(config)
    assert set(server.runs) == {wandb_id(config) for config in configs}
    for run in server.runs.values():
        assert (run["project"], run.get("sweep")) == (
            ("mine", None) if project else ("theirs", "s1")
        )
        assert run["entity"] == "a_team"
        assert run["displayName"] != "another"


def test_a_run_after_one_that_crashed_in_the_same_process_is_in_the_sweep_too(
    tiny, server, monkeypatch
):
    for name, value in {"SWEEP_ID": "s1", "RUN_ID": "the_agents", "PROJECT": "theirs"}.items():
        monkeypatch.setenv(f"WANDB_{name}", value)
    first, second = (tiny("--runtime.wandb=online", f"--seed={seed}") for seed in (1, 2))
    crashed(first, 2, monkeypatch)
    train(second, progress=False)
    assert set(server.runs) == {wandb_id(first), wandb_id(second)}
    assert [run.get("sweep") for run in server.runs.values()] == ["s1", "s1"]


@pytest.mark.parametrize(
    ("named", "configured", "project"),
    [("theirs", "", "theirs"), ("theirs", "mine", "mine"), ("", "", "xceptlab")],
)
def test_wandbs_environment_counts_where_the_configuration_says_nothing(
    tiny, server, monkeypatch, named, configured, project
):
    for name, value in {
        "ENTITY": "a_team",
        "NOTES": "for the review",
        "TAGS": "a_study,night",
        "RUN_ID": "other",
    }.items():
        monkeypatch.setenv(f"WANDB_{name}", value)
    if named:
        monkeypatch.setenv("WANDB_PROJECT", named)
    config = tiny("--runtime.wandb=online", f"--runtime.wandb_project={configured}")
    directory(config).join("a_study")
    train(config, progress=False)
    (run,) = server.runs.values()
    assert (run["project"], run["entity"], run["notes"]) == (project, "a_team", "for the review")
    assert run["tags"] == ["a_study", "night"]
    assert run["name"] == wandb_id(config)


def logged(outputs, lines):
    return any(
        file.read_text().count("\n") >= lines for file in outputs.glob("runs/*/metrics.jsonl")
    )


def test_a_run_online_is_one_run_with_its_log_its_configuration_and_its_record(tiny, server):
    config = tiny(
        "--runtime.wandb=auto",
        "--runtime.wandb_weights=true",
        "--runtime.study=a_study",
        "--runtime.arm=an_arm",
    )
    directory(config).join("a_study")
    directory(config).join("another")
    record = train(config, progress=False)
    (run,) = server.runs.values()
    assert sent(server.histories[wandb_id(config)]) == log(config)
    assert (run["groupName"], run["jobType"], run["displayName"]) == (
        "a_study",
        "an_arm",
        config.run_id,
    )
    assert run["tags"] == ["a_study", "another"]
    assert json.loads(run["config"])["model.residual"] == {"value": "all"}
    summary = server.summaries[wandb_id(config)]
    assert (
        summary.items()
        >= {"status": "finished", "parameters": record.parameters, **record.metrics}.items()
    )
    assert (
        server.files["model.safetensors"]
        == (directory(config).path / "model.safetensors").read_bytes()
    )
    assert [artifact["artifactTypeName"] for artifact in server.artifacts] == ["model"]
    assert (
        directory(config).path / "wandb_url"
    ).read_text() == f"{server.url}/me/xceptlab/runs/{wandb_id(config)}"
    everything = "".join(
        file.read_text(errors="ignore")
        for file in directory(config).path.rglob("*")
        if file.is_file()
    )
    assert KEY not in everything


@pytest.mark.parametrize("end", ["kill", "error"])
def test_a_run_that_was_interrupted_goes_on_as_the_same_run_and_each_line_arrives_once(
    tiny, server, tmp_path, monkeypatch, end
):
    config = tiny("--train.epochs=5", "--runtime.wandb=online")
    if end == "kill":  # W&B has fewer lines than are in the log
        killed(
            tmp_path / "outputs",
            lambda: logged(tmp_path / "outputs", 12),
            "--train.epochs=5",
            "--runtime.wandb=online",
        )
    else:  # it has more than the run continues from
        crashed(config, 13, monkeypatch)
        assert len(server.histories[wandb_id(config)]) > 13
    before = len(server.histories[wandb_id(config)])
    train(config, progress=False)
    (history,) = server.histories.values()
    assert sent(history)[before:] == log(config)[before:]
    for name in ("step", "train/loss", "val/loss"):  # of steps that were done twice, too
        assert [line.get(name) for line in history] == [line.get(name) for line in log(config)]


def test_a_run_that_logs_otherwise_when_it_continues_loses_no_line(tiny, server, monkeypatch):
    config, seldom = (
        tiny("--train.epochs=6", "--runtime.wandb=online", f"--runtime.log_every={n}")
        for n in (1, 1000)
    )
    crashed(config, 18, monkeypatch)
    train(seldom, progress=False)
    (history,) = server.histories.values()
    assert [line["_step"] for line in history] == sorted({line["_step"] for line in history})
    # the first attempt's lines stay, too
    assert {line["_step"] for line in log(config)} < {line["_step"] for line in history}


def test_a_server_that_is_gone_at_the_end_costs_neither_the_run_nor_minutes(
    tiny, server, monkeypatch
):
    monkeypatch.setattr(weights_and_biases, "UPLOAD_SECONDS", 2)
    config = tiny("--runtime.wandb=online")
    close = weights_and_biases.WandbRun.close
    monkeypatch.setattr(
        weights_and_biases.WandbRun,
        "close",
        lambda self, record: (server.stop(), close(self, record)),
    )
    start = time.monotonic()
    with warnings.catch_warnings(action="ignore"):  # it says so, or wandb does
        assert train(config, progress=False).status == "finished"
    assert time.monotonic() - start < 300  # by itself wandb tries for hours
    assert not list(directory(config).path.glob("lease.*"))


def test_offline_files_hold_the_log_also_after_a_kill_and_sync_sends_it_once(
    tiny, server, tmp_path, capsys
):
    science = (
        "--train.epochs=12",
        "--runtime.wandb=offline",
        "--runtime.study=a_study",
        "--runtime.arm=an_arm",
    )
    config = tiny(*science)
    killed(
        tmp_path / "outputs",
        lambda: any(
            map(offline_history, directory(config).path.glob("wandb/offline-run-*/*.wandb"))
        ),
        *science,
    )
    (file,) = directory(config).path.glob("wandb/offline-run-*/*.wandb")
    lines = sent(offline_history(file))
    assert lines
    assert lines == log(config)[: len(lines)]

    train(config, progress=False)
    newest = max(
        directory(config).path.glob("wandb/offline-run-*/*.wandb"),
        key=lambda file: file.stat().st_mtime,
    )
    assert newest != file
    assert sent(offline_history(newest)) == log(config)  # all of it: of several, W&B keeps one
    (run,) = [record.run for record in offline_records(newest) if record.HasField("run")]
    assert (run.run_id, run.run_group, run.job_type) == (wandb_id(config), "a_study", "an_arm")
    assert {update.key: json.loads(update.value_json) for update in run.config.update}[
        "train.epochs"
    ] == 12
    assert server.requests == 0

    for _ in range(2):
        assert cli.main(["sync", config.run_id, f"--runtime.outputs={tmp_path / 'outputs'}"]) == 0
        assert capsys.readouterr().out.endswith(
            f"{config.run_id}: {server.url}/me/xceptlab/runs/{wandb_id(config)}\n"
        )
        assert sent(server.histories[wandb_id(config)]) == log(config)
    assert server.summaries[wandb_id(config)]["status"] == "finished"


def test_a_study_has_its_verdicts_and_report_in_a_run_of_its_own_and_sync_rebuilds_it_all(
    server, tmp_path, fresh_xceptlab, capsys
):
    study = tmp_path / "small.yaml"
    layers = [argument for flag, argument in pairwise(TINY) if flag == "-c"]
    study.write_text(
        f"question: Is it?\nbase: {json.dumps(layers)}\narms: {{one: {{}}, two: {{model.residual: none}}}}\nseeds: [0]\n"
        "claims: [{id: better, statement: It is., contrast: [one, two], metric: test/top1, kind: superior, margin: 1.0}]\n"
    )
    overrides = [argument for argument in TINY if argument.startswith("--")] + [
        f"--runtime.outputs={tmp_path / 'outputs'}"
    ]

    def look() -> tuple[str, dict]:
        """The study's own run, and what the others logged."""
        (report,) = (tmp_path / "outputs" / "studies").glob("small*/report.html")
        arms = {run["name"]: run["jobType"] for run in server.runs.values()}
        assert sorted(arms.values()) == ["one", "study", "two"]
        assert len({run["groupName"] for run in server.runs.values()}) == 1
        (own,) = [name for name, arm in arms.items() if arm == "study"]
        assert server.summaries[own].items() >= {"better": "inconclusive", "runs": 2}.items()
        (table,) = [
            content for name, content in server.files.items() if name.startswith("media/table/")
        ]
        assert json.loads(table)["data"][0][:3] == ["better", "It is.", "inconclusive"]
        (page,) = [
            content for name, content in server.files.items() if name.startswith("media/html/")
        ]
        assert page == report.read_bytes()
        return own, {name: sent(lines) for name, lines in server.histories.items() if name != own}

    # its runs have its environment
    done = fresh_xceptlab("study", str(study), *overrides, "--runtime.wandb=online")
    assert done.returncode == 0, done.stderr
    own, histories = look()

    before = server.requests  # disabled sends nothing, not even of runs that were online
    assert cli.main(["study", str(study), *overrides, "--runtime.wandb=disabled"]) == 0
    assert server.requests == before

    for lost in (server.runs, server.histories, server.summaries, server.files):
        lost.clear()
    assert cli.main(["sync", str(study), *overrides, "--runtime.wandb=online"]) == 0
    assert look() == (own, histories)
    assert f"{server.url}/me/xceptlab/runs/{own}" in capsys.readouterr().out


def test_a_study_without_claims_is_sent_too(server, tmp_path):
    (tmp_path / "report.html").write_text("<p>A report.")
    weights_and_biases.sync_study(tmp_path, "small", "xceptlab", "What is it?", [], {"runs": 2})
    (summary,) = server.summaries.values()
    assert summary["runs"] == 2
    assert b"<p>A report." in server.files.values()


def test_a_first_look_at_a_study_is_sent_by_itself(server, tmp_path, capsys):
    options = ["--runtime.outputs", str(tmp_path)]
    expansion = expand("experiments/residual", options, 2)
    for (arm, seed), config in expansion.runs().items():
        made = leave(expansion, arm, seed, 97.0)
        (made.path / "config.yaml").write_text(dump(config))
    assert cli.main(["sync", "experiments/residual", "--seeds", "2", *options]) == 0
    assert [run["groupName"] for run in server.runs.values() if run.get("jobType") == "study"] == [
        "residual+seeds2"
    ]
    assert len(server.runs) == 1 + 4
    name = expansion.run("residual", 0).run_id
    assert cli.main(["sync", name, "--seeds", "2", *options]) == 2
    assert f"--seeds: 2 is not allowed with the run {name}" in capsys.readouterr().err


def test_what_cannot_be_sent_does_not_keep_the_others(tiny, server, tmp_path, capsys):
    configs = [tiny(f"--seed={seed}") for seed in (1, 2)]
    for config in configs:
        train(config, progress=False)
    (directory(configs[0]).path / "metrics.jsonl").write_text("no log\n")
    names = [config.run_id for config in configs]
    assert (
        cli.main(
            ["sync", *names, f"--runtime.outputs={tmp_path / 'outputs'}", "--model.residual=none"]
        )
        == 2
    )
    assert "line 1 is no line of a log" in capsys.readouterr().err
    (run,) = [run for run in server.runs.values() if server.histories[run["name"]]]
    assert run["displayName"] == names[1]
    # a run that is done is what it was
    assert json.loads(run["config"])["model.residual"] == {"value": "all"}


def test_a_wrong_key_is_one_line_or_an_offline_run_and_is_never_shown(
    tiny, server, monkeypatch, capsys
):
    wrong = "9876543210" * 4
    monkeypatch.setenv("WANDB_API_KEY", wrong)
    config = tiny("--runtime.wandb=online")
    arguments = [*TINY, f"--runtime.outputs={config.runtime.outputs}"]
    assert cli.main(["train", *arguments, "--runtime.wandb=online"]) == 2
    errors = capsys.readouterr().err
    assert errors.startswith("xceptlab: runtime.wandb: online does not work here: W&B: ")
    assert errors.count("\n") == 1
    assert wrong not in errors
    train(tiny("--runtime.wandb=auto"), progress=False)
    assert "tracked offline, and `xceptlab sync` can send it later" in capsys.readouterr().err
    assert cli.main(["sync", config.run_id, f"--runtime.outputs={config.runtime.outputs}"]) == 2
    assert wrong not in "".join(capsys.readouterr())


def test_without_a_key_auto_is_offline_and_sync_says_what_is_missing(tiny, monkeypatch, capsys):
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    monkeypatch.setenv("NETRC", os.devnull)
    config = tiny("--runtime.wandb=auto")
    train(config, progress=False)
    assert len(list(directory(config).path.glob("wandb/offline-run-*"))) == 1
    assert cli.main(["sync", str(directory(config).path)]) == 2
    assert capsys.readouterr().err == (
        "xceptlab: W&B: there is no key; `wandb login` keeps one, and the environment's WANDB_API_KEY is one\n"
    )
    # A misspelt name is told before the key that is missing, too.
    assert cli.main(["sync", str(directory(config).path), "no_such_run"]) == 2
    assert "no_such_run: neither a study nor a run under" in capsys.readouterr().err


def test_a_run_that_is_being_trained_is_not_sent_by_another_process(tiny, server):
    config = tiny()
    directory(config).create()
    with (
        directory(config).locked(),
        pytest.raises(weights_and_biases.leases.Busy, match="a process is training this run"),
    ):
        weights_and_biases.sync_run(config, directory(config))
    assert not server.requests


def test_sync_asks_to_be_repeated_where_a_run_is_being_trained_unless_something_is_to_be_mended(
    tiny, server
):
    busy, damaged = tiny(), tiny("--seed=7")
    train(busy, progress=False)
    train(damaged, progress=False)
    (directory(damaged).path / "config.yaml").write_text("seed: many\n")
    paths = [str(directory(config).path) for config in (busy, damaged)]
    with directory(busy).locked():
        assert cli.main(["sync", paths[0]]) == 75
        assert cli.main(["sync", *paths]) == 2
        assert cli.main(["sync", *reversed(paths)]) == 2


def test_a_wandb_that_fails_in_mid_run_costs_the_mirror_not_the_run(tiny, monkeypatch, capsys):
    monkeypatch.setattr(wandb.Run, "log", lambda *args, **kwargs: 1 / 0)
    assert train(tiny("--runtime.wandb=offline"), progress=False).status == "finished"
    assert "Warning: W&B failed, the run goes on without it" in capsys.readouterr().err


def test_wandb_is_optional(tiny, monkeypatch):
    monkeypatch.setattr(weights_and_biases, "WANDB", False)
    config = tiny("--runtime.wandb=auto")
    assert train(config, progress=False).status == "finished"
    with pytest.raises(ValueError, match="not installed"):
        train(tiny("--runtime.wandb=online", "--seed=7"), progress=False)
    with pytest.raises(ValueError, match="not installed"):
        weights_and_biases.check_key()


@pytest.mark.parametrize("mode", ["offline", "dryrun", "disabled"])
def test_a_mode_that_keeps_wandb_from_its_server_is_told_as_that(monkeypatch, mode):
    monkeypatch.setenv("WANDB_API_KEY", "0" * 40)
    monkeypatch.setenv("WANDB_MODE", mode)
    with pytest.raises(ValueError, match=f"W&B: WANDB_MODE is {mode}; remove it to reach the"):
        weights_and_biases.check_key()


def test_tensorboard_holds_the_log_once_also_after_an_interruption(tiny, monkeypatch):
    events = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    config = tiny("--train.epochs=6", "--runtime.tensorboard=true")
    crashed(config, 18, monkeypatch)
    train(config, progress=False)
    read = events.EventAccumulator(
        str(directory(config).path / "tensorboard"), size_guidance={"scalars": 0}
    ).Reload()
    lines = directory(config).log()
    for name in ("train/loss", "val/top1", "test/top1"):
        expected = [
            (line["step"], pytest.approx(line[name], rel=1e-6)) for line in lines if name in line
        ]
        assert [(event.step, event.value) for event in read.Scalars(name)] == expected
    monkeypatch.setattr(tracking, "_TENSORBOARD", False)
    with pytest.raises(ValueError, match=r"runtime.tensorboard: true needs tensorboard"):
        train(tiny("--runtime.tensorboard=true", "--seed=7"), progress=False)
