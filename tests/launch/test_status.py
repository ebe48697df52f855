"""What one sees of a study, from any machine that sees its folder."""

import json
import os
import time

import pytest
import yaml
from rich.console import Console

from conftest import ROOT
from launch import fakes
from xceptlab.cli import main
from xceptlab.launch import status
from xceptlab.launch.status import Overview
from xceptlab.runs import leases
from xceptlab.runs.directory import RunDirectory
from xceptlab.study.plan import expand


@pytest.fixture
def study(tmp_path, monkeypatch):
    monkeypatch.chdir(ROOT)
    return expand("experiments/residual", [f"--runtime.outputs={tmp_path}"])


def directory(run):
    directory = RunDirectory.of(run.runtime.outputs, run.run_id)
    directory.create()
    return directory


def log(run, epoch):
    line = {
        "step": 10,
        "time": time.time(),
        "epoch": epoch,
        "train/loss": 1.0,
        "train/top1": 62.5,
        "images_per_second": 1234.0,
        "seconds": 3.0,
    }
    (directory(run).path / "metrics.jsonl").write_text(json.dumps(line) + "\n")


def text(overview, states=None):
    console = Console(width=150)
    with console.capture() as capture:
        console.print(overview.table(states or {}))
    return capture.get()


def test_every_state_of_a_run_is_told_apart(study):
    done, running, stopped, killed, lost, *rest = study.runs().values()
    directory(done)
    fakes.write_record(done)
    for run in (running, stopped, killed, lost):
        log(run, 1.5)
    (directory(killed).path / "lease.0").write_text(
        json.dumps(vars(leases.Holder.this_process()) | {"started": "1"})
    )
    lease = directory(lost).path / "lease.0"
    lease.write_text(json.dumps({"host": "node7", "pid": 12, "machine": "elsewhere"}))
    os.utime(lease, (time.time() - 200, time.time() - 200))
    overview = Overview(study)
    with directory(running).locked():
        seen = overview.read({})
        shown = text(overview)
    assert [seen[run.run_id].state for run in (done, running, stopped, killed, lost)] == [
        "done", "running", "stopped", "stopped", "running",
    ]  # fmt: skip
    assert {seen[run.run_id].state for run in rest} == {"waiting"}
    assert "1 of 10 done, 2 running, 2 stopped, 5 waiting" in shown
    assert f"{overview.name(running.run_id)} " in shown
    assert "1.5/" in shown
    assert "62.5" in shown
    assert "1,234" in shown
    assert f":{os.getpid()}" in shown
    assert "node7:12 (no sign of life for 3:2" in shown
    assert not overview.complete


def test_what_a_launcher_knows_besides_is_shown(study):
    runs = list(study.runs().values())
    states = dict(
        zip([run.run_id for run in runs], ["failed", "running", "queued", "waiting"], strict=False)
    )
    shown = text(Overview(study), states)
    assert "0 of 10 done, 1 running, 1 failed, 1 queued, 7 waiting" in shown
    assert f"failed: {Overview(study).name(runs[0].run_id)}" in shown


def test_a_run_that_failed_says_why_on_any_machine_until_somebody_trains_it_again(study):
    failed, alike, again, *_ = study.runs().values()
    for run, reason in (
        (failed, "the data are gone"),
        (alike, "the data are gone"),
        (again, "out of memory"),
    ):
        directory(run).fail(reason)
    overview = Overview(study)
    seen = overview.read({})
    assert [(seen[run.run_id].state, seen[run.run_id].reason) for run in (failed, again)] == [
        ("failed", "the data are gone"),
        ("failed", "out of memory"),
    ]
    shown = " ".join(text(overview).split())
    assert "0 of 10 done, 3 failed, 7 waiting" in shown
    assert (
        f"failed: {overview.name(failed.run_id)}, {overview.name(alike.run_id)}: the data are gone (see "
        in shown
    )
    assert "seed 1: out of memory (see " in shown
    # a launcher will start it
    assert overview.read({again.run_id: "waiting"})[again.run_id].state == "waiting"
    with directory(again).locked():
        assert overview.read({})[again.run_id].state == "running"
    assert overview.read({})[again.run_id].state == "waiting"
    fakes.write_record(failed)
    assert overview.read({})[failed.run_id].state == "done"


@pytest.mark.parametrize("seeds", [None, {"start": 3, "step": 1, "max": 4, "stop": "decided"}])
def test_one_broken_record_does_not_hide_the_other_runs(tmp_path, capsys, seeds):
    text = yaml.safe_load((ROOT / "experiments/residual/study.yaml").read_text()) | {
        "seeds": seeds or [0, 1, 2]
    }
    (tmp_path / "study.yaml").write_text(yaml.safe_dump(text))
    arguments = [str(tmp_path / "study.yaml"), f"--runtime.outputs={tmp_path / 'outputs'}"]
    done, broken, *_ = expand(arguments[0], arguments[1:]).runs().values()
    directory(done)
    fakes.write_record(done)
    (directory(broken).path / "record.json").write_text('{"run_id"')
    assert main(["status", *arguments]) == 0
    said = capsys.readouterr().out
    assert "1 of 6 done, 1 failed, 4 waiting" in said
    assert (
        f"failed: residual seed 0: {directory(broken).path / 'record.json'}: damaged, no whole JSON"
        in said
    )


def test_in_a_file_nothing_is_cut_or_wrapped(study, capsys, tmp_path):
    first, *_ = study.runs().values()
    directory(first).fail("the data are gone " * 20 + "for good")
    assert main(["status", "experiments/residual", f"--runtime.outputs={tmp_path}"]) == 0
    _, counts, failed, waiting = capsys.readouterr().out.splitlines()
    assert "for good (see " in failed
    assert (
        waiting
        == f"waiting: {', '.join(map(Overview(study).name, list(Overview(study).runs)[1:]))}"
    )
    assert counts == counts.rstrip()


def test_status_prints_once_where_nobody_watches_and_writes_nothing(capsys, tmp_path, study):
    assert main(["status", "experiments/residual", f"--runtime.outputs={tmp_path}"]) == 0
    printed = capsys.readouterr()
    assert printed.err == ""
    first, second, *_ = printed.out.splitlines()
    assert (
        first
        == f"residual: no run of it is in {tmp_path / 'runs'}; --runtime.outputs names another outputs folder"
    )
    assert second == "0 of 10 done, 10 waiting"
    assert list(tmp_path.iterdir()) == []


def test_status_names_the_folder_that_it_looked_in(capsys, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "outputs" / "studies" / "residual").mkdir(parents=True)
    assert main(["status", "residual"]) == 0
    assert (
        capsys.readouterr().out.splitlines()[0]
        == f"residual, runs in {tmp_path.resolve() / 'outputs' / 'runs'}"
    )


@pytest.mark.parametrize("leave", ["done", "Ctrl-C"])
def test_in_a_terminal_it_stays_until_the_study_is_done_or_the_user_leaves(
    study, monkeypatch, leave, capsys
):
    runs, looks = list(study.runs().values()), []

    def sleep(seconds):
        looks.append(seconds)
        if leave == "Ctrl-C":
            raise KeyboardInterrupt
        fakes.write_record(runs[len(looks) - 1])

    for run in runs:
        directory(run)
    monkeypatch.setattr(status.time, "sleep", sleep)
    monkeypatch.setattr(status, "Console", lambda **_: Console(force_terminal=True, width=150))
    status.show(study)
    assert len(looks) == (10 if leave == "done" else 1)
    assert ("10 of 10 done" in capsys.readouterr().out) == (leave == "done")
