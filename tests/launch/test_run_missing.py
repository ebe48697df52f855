"""What becomes of a study's runs when its command ends."""

import pytest

from xceptlab.interruption import Interrupted
from xceptlab.launch import study
from xceptlab.study import expand


@pytest.mark.parametrize(("outlived", "error"), [(False, Interrupted), (True, KeyboardInterrupt), (True, Interrupted)])
def test_a_signal_leaves_alone_what_outlives_the_command_and_ctrl_c_stops_all(monkeypatch, tmp_path, capsys, outlived, error):
    called = []

    class Launcher:
        pause = 0.0

        def start(self, configs):
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
