"""What becomes of a study's runs when its command ends."""

import re

import pytest
from rich.console import Console

from launch import fakes
from xceptlab.errors import Interrupted
from xceptlab.launch import study
from xceptlab.runs.directory import RunDirectory
from xceptlab.study.plan import expand
from xceptlab.study.registration import Registration


@pytest.mark.parametrize("terminal", [True, False])
def test_the_reason_is_shown_as_soon_as_a_run_fails_and_after_ctrl_c(
    monkeypatch, tmp_path, capsys, terminal
):
    expansion = expand("experiments/residual", [f"--runtime.outputs={tmp_path}"])
    ids = [run.run_id for run in expansion.runs().values()]
    shown_before = []

    class Launcher:
        pause = 0.0
        outlived = False
        polls = 0

        def accept(self, configs):
            pass

        def poll(self):
            self.polls += 1
            if self.polls == 1:
                RunDirectory.of(str(tmp_path), ids[1]).fail("the cat unplugged it")
                return dict.fromkeys(ids, "waiting") | {ids[1]: "failed"}
            shown_before.append(capsys.readouterr().out)
            raise KeyboardInterrupt

        def stop(self):
            pass

    monkeypatch.setattr(study, "make_launcher", lambda *_: Launcher())
    monkeypatch.setattr(study, "Console", lambda **_: Console(force_terminal=terminal, width=250))
    with pytest.raises(KeyboardInterrupt):
        study.run_missing(expansion, None, None)
    assert "no_residual seed 0" in shown_before[0]
    assert "the cat unplugged it" in shown_before[0]
    assert f"failed: {ids[1]}: the cat unplugged it (see " in capsys.readouterr().err


def test_every_line_counts_the_runs_that_are_done_by_then(monkeypatch, tmp_path, capsys):
    expansion = expand("experiments/residual", [f"--runtime.outputs={tmp_path}"])
    before, *missing = expansion.runs().values()
    RunDirectory.of(str(tmp_path), before.run_id).create()
    fakes.write_record(before)

    class Launcher:
        pause = 0.0

        def accept(self, configs):
            pass

        def poll(self):  # all end between two polls
            for run in missing:
                RunDirectory.of(str(tmp_path), run.run_id).create()
                fakes.write_record(run)
            return {run.run_id: "done" for run in missing}

        def stop(self):
            pass

    monkeypatch.setattr(study, "make_launcher", lambda *_: Launcher())
    monkeypatch.setattr(study, "Console", lambda **_: Console(force_terminal=False))
    study.run_missing(expansion, None, None)
    lines = [line for line in capsys.readouterr().out.splitlines() if ": done" in line]
    assert [re.search(r"\((\d+) of 10 done\)$", line)[1] for line in lines] == [
        str(count) for count in range(2, 11)
    ]


def test_runs_that_fail_for_the_same_reason_tell_it_once(monkeypatch, tmp_path, capsys):
    expansion = expand("experiments/residual", [f"--runtime.outputs={tmp_path}"])
    ids = [run.run_id for run in expansion.runs().values()]

    class Launcher:
        pause = 0.0

        def accept(self, configs):
            pass

        def poll(self):
            for run_id in ids:
                RunDirectory.of(str(tmp_path), run_id).fail("a.jpg: no readable image")
            return dict.fromkeys(ids, "failed")

        def stop(self):
            pass

    monkeypatch.setattr(study, "make_launcher", lambda *_: Launcher())
    logs = {run_id: tmp_path / "runs" / run_id / "log.txt" for run_id in ids}
    assert study.run_missing(expansion, None, None) == logs
    shown = capsys.readouterr().out
    assert shown.count("a.jpg: no readable image") == 1
    assert [str(log) in shown for log in logs.values()] == [True] * len(ids)


@pytest.mark.parametrize(
    ("outlived", "error"), [(False, Interrupted), (True, KeyboardInterrupt), (True, Interrupted)]
)
def test_a_signal_leaves_alone_what_outlives_the_command_and_ctrl_c_stops_all(
    monkeypatch, tmp_path, capsys, outlived, error
):
    called = []

    class Launcher:
        pause = 0.0

        def accept(self, configs):
            called.append("start")

        def poll(self):
            raise error

        def stop(self):
            called.append("stop")

    Launcher.outlived = outlived
    monkeypatch.setattr(study, "make_launcher", lambda *_: Launcher())
    expansion = expand("experiments/residual", [f"--runtime.outputs={tmp_path}"])
    with pytest.raises(error):
        study.run_missing(expansion, None, None)
    leaves = outlived and error is Interrupted
    assert called == (["start"] if leaves else ["start", "stop"])
    assert ("Leaving: the jobs go on" in capsys.readouterr().out) == leaves


def test_a_study_is_registered_with_every_run_before_the_first_one_starts(monkeypatch, tmp_path):
    expansion = expand("experiments/residual", [f"--runtime.outputs={tmp_path}"])
    seen = {}

    class Launcher:
        pause, outlived = 0.0, False

        def accept(self, configs):
            self.configs = configs

        def poll(self):
            for config in self.configs:
                seen[config.run_id] = RunDirectory.of(
                    config.runtime.outputs, config.run_id
                ).registrations()
            return dict.fromkeys(seen, "failed")

        def stop(self):
            pass

    monkeypatch.setattr(study, "make_launcher", lambda *_: Launcher())
    study.run_missing(expansion, None, None)
    assert list(seen.values()) == [[Registration.load_for(expansion).digest]] * 10
