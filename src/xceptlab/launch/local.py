"""Runs on this machine, one process group each; the cores or GPUs are shared out.

A run on one device is forked from a server process that has torch and Lightning loaded (0.2 s in
place of some 8 s a run). A run on several devices starts a fresh interpreter, which Lightning's own
launcher then executes once per device.
"""

import contextlib
import functools
import multiprocessing
import os
import signal
import sys
import time
from collections import Counter
from collections.abc import Iterator
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any, NamedTuple

from xceptlab.config.schema import RunConfig
from xceptlab.errors import Refused
from xceptlab.launch.child import execute
from xceptlab.launch.launcher import CHECKPOINT_SECONDS, Job, Launcher, Main, check_one_node
from xceptlab.runs.world import count_cores
from xceptlab.signals import die_with_parent

DRIVERS = ("/proc/driver/nvidia", "/dev/nvidiactl", "/dev/dxg", "/dev/kfd")
"""Files of the drivers of NVIDIA, WSL and AMD; where there is none of them, torch need not be
imported to count GPUs.
"""


class _Started(NamedTuple):
    """A run that was started, with what it runs on."""

    process: BaseProcess
    units: list[str]
    """Cores or GPUs that the run has been given."""


class Local(Launcher):
    """Runs on this machine. Without a number of ``jobs`` no two runs share a GPU or, as far as it
    can be, a core.
    """

    pause = 0.2

    def __init__(self, main: Main, jobs: int | None) -> None:
        super().__init__(main, jobs)
        self.cores = [f"core {i}" for i in range(count_cores())]
        self._context = multiprocessing.get_context("forkserver")
        self._context.set_forkserver_preload(["xceptlab.launch.preload"])

    @functools.cached_property
    def gpus(self) -> list[str]:
        """The GPUs that this process may use, by their names in CUDA_VISIBLE_DEVICES."""
        if not any(Path(driver).exists() for driver in DRIVERS):
            return []
        import torch

        count = torch.cuda.device_count()  # counts only what CUDA_VISIBLE_DEVICES lets through
        visible = os.environ.get("CUDA_VISIBLE_DEVICES")
        if visible is None:
            return [str(i) for i in range(count)]
        return visible.split(",")[:count]

    def check(self, config: RunConfig) -> None:
        check_one_node(config)
        devices = config.runtime.devices
        if self._uses_gpus(config) and devices > len(self.gpus):
            raise Refused(
                f"runtime.devices: {devices} GPUs a run are asked for, {len(self.gpus)} are there"
            )

    def begin(self, ready: Iterator[Job]) -> None:
        for job in ready:
            units = self.room(job.config)
            if units is None:
                return  # later runs wait too, or a large one would never have its turn
            visible_gpus = ",".join(units) if self._uses_gpus(job.config) else None
            fresh = job.config.runtime.devices > 1
            arguments = (self.main, job.write_config(), job.log, visible_gpus, fresh)
            process = self._context.Process(target=_run, args=arguments, name=job.config.run_id)
            with _without_main():
                # the first one waits for the server to load; interrupted there, there is no process
                # yet
                process.start()
            job.state = "running"
            job.handle = _Started(process, units)

    def exit_codes(self, jobs: list[Job]) -> dict[str, int]:
        codes = {}
        for job in jobs:
            code = job.handle.process.exitcode
            if code is not None:
                codes[job.config.run_id] = code
        return codes

    def stop(self) -> None:
        try:
            self._end(signal.SIGTERM, CHECKPOINT_SECONDS)
        finally:  # also when this is interrupted
            self._end(signal.SIGKILL, 1.0)

    def room(self, config: RunConfig) -> list[str] | None:
        """The GPUs or cores for a run, the least used ones; None while it has to wait for them."""
        runs_on: Counter[str] = Counter()  # by GPU or core
        for job in self.jobs.values():
            if job.handle:
                runs_on.update(job.handle.units)
        if self._uses_gpus(config):
            units = self.gpus
            wanted = config.runtime.devices
        else:
            units = self.cores
            wanted = config.runtime.devices * config.train.threads
        chosen = sorted(units, key=lambda unit: runs_on[unit])[:wanted]
        if self.limit:  # the user has said how many runs share the machine
            return chosen
        all_free = not any(runs_on[unit] for unit in chosen)
        return chosen if all_free else None

    def _uses_gpus(self, config: RunConfig) -> bool:
        return config.runtime.accelerator in ("auto", "gpu") and bool(self.gpus)

    def _end(self, number: signal.Signals, patience: float) -> None:
        """Send a signal to the runs that have not ended, and wait for their end.

        Args:
            number: SIGTERM goes to each run's first process, which stops its others; SIGKILL to all
                processes of the run.
            patience: Seconds to wait for the runs to end.
        """
        running: list[BaseProcess] = [
            job.handle.process for job in self.jobs.values() if job.handle
        ]
        send = os.kill if number == signal.SIGTERM else os.killpg
        for process in running:
            if process.exitcode is None:
                assert process.pid
                try:
                    send(process.pid, number)
                except ProcessLookupError:  # it has not made its own group yet, or is gone
                    process.kill()
        deadline = time.monotonic() + patience
        while time.monotonic() < deadline and any(process.exitcode is None for process in running):
            time.sleep(0.05)


@contextlib.contextmanager
def _without_main() -> Iterator[None]:
    """Keep multiprocessing from importing the program's main module again in a run's process, which
    needs nothing of it.

    A user's script that runs a study, without a guard of ``__name__``, would start the study once
    more in each run.
    """
    module: dict[str, Any] = vars(sys.modules["__main__"])
    kept: dict[str, Any] = {
        name: module[name] for name in ("__file__", "__spec__") if name in module
    }
    module.pop("__file__", None)
    module["__spec__"] = None
    try:
        yield
    finally:
        module.update(kept)


def _run(main: Main, argv: list[str], log: Path, visible_gpus: str | None, fresh: bool) -> None:
    """Body of a run's process, which is forked from the server.

    Args:
        main: ``xceptlab``'s main function.
        argv: Arguments of ``main``.
        log: File of the run's output.
        visible_gpus: Value of CUDA_VISIBLE_DEVICES; None leaves it as it is.
        fresh: See ``child.execute``.
    """
    os.setsid()
    if visible_gpus is not None:
        os.environ["CUDA_VISIBLE_DEVICES"] = visible_gpus
    die_with_parent()
    sys.exit(execute(main, argv, log, fresh=fresh))
