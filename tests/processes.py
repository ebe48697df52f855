"""``xceptlab`` in processes of their own, forked from a server that has torch and Lightning loaded:
0.2 s in place of some 8 s.

As the local launcher's runs, with which they share the server: each process of pytest starts one,
once. What happens while the libraries are loaded needs a fresh interpreter.
"""

import multiprocessing
import os
import signal
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from multiprocessing.process import BaseProcess
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

ROOT = Path(__file__).parents[1]
SERVER = multiprocessing.get_context("forkserver")
SERVER.set_forkserver_preload(["xceptlab.launch.preload"])


Main = Callable[[list[str]], int]
"""``xceptlab.cli.main``, or what stands in for it: importable, as processes need it."""


def start(
    arguments: Sequence[object],
    folder: Path,
    environment: Mapping[str, str] | None = None,
    cwd: Path = ROOT,
    main: Main | None = None,
) -> BaseProcess:
    """Start ``xceptlab ARGUMENTS`` in ``cwd``; what it prints goes into ``stdout`` and ``stderr``
    in the folder.
    """
    folder.mkdir(parents=True, exist_ok=True)
    process = SERVER.Process(
        target=_command,
        args=([*map(str, arguments)], folder, dict(environment or os.environ), cwd, main),
    )
    process.start()
    return process


def run(
    arguments: Sequence[object],
    environment: Mapping[str, str] | None = None,
    cwd: Path = ROOT,
    main: Main | None = None,
    seconds: float = 300,
) -> subprocess.CompletedProcess[str]:
    """Wait for ``xceptlab ARGUMENTS``.

    Raises:
        TimeoutExpired: It takes longer than ``seconds``.
    """
    with TemporaryDirectory() as temporary:
        folder, process = Path(temporary), start(arguments, Path(temporary), environment, cwd, main)
        process.join(seconds)
        if process.exitcode is None:
            process.kill()
            process.join()
            raise subprocess.TimeoutExpired([*map(str, arguments)], seconds)
        printed = [(folder / name).read_text("utf-8") for name in ("stdout", "stderr")]
        return subprocess.CompletedProcess([*map(str, arguments)], process.exitcode, *printed)


def slow_after_two_epochs(arguments: list[str]) -> int:
    """Stand in for ``main``: a real run whose steps take a second from its third epoch on, so that
    it can be met in mid-epoch.
    """
    from xceptlab import cli
    from xceptlab.training.task import Task

    step = Task.training_step

    def slow_step(self: Task, *args: Any) -> Any:
        if self.current_epoch >= 2:
            time.sleep(1)
        return step(self, *args)

    Task.training_step = slow_step  # type: ignore[method-assign]
    return cli.main(arguments)


def _command(
    arguments: list[str], folder: Path, environment: dict[str, str], cwd: Path, main: Main | None
) -> None:
    from xceptlab import cli

    os.chdir(cwd)
    os.environ.clear()
    os.environ.update(environment)
    # which a process in the background may ignore
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGHUP, signal.SIG_DFL)  # as one under nohup does this one
    for number, name in ((1, "stdout"), (2, "stderr")):
        os.dup2(os.open(folder / name, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), number)
    raise SystemExit((main or cli.main)(arguments))
