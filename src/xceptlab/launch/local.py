"""Launch runs on this machine, in a process group each, and share its cores or GPUs out to them.

A run on one device is forked from a server process that has torch and Lightning loaded (0.2 s in
place of some 8 s a run). A run on several devices starts a fresh interpreter, whose command
Lightning's own launcher then executes again for each further device.
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
"""Files of the GPU drivers of NVIDIA, WSL and AMD. Where none of them is there, there is no GPU,
and torch, whose import takes seconds, need not count them.
"""


class _Started(NamedTuple):
    """The process of a run, and what the run was given to run on."""

    process: BaseProcess
    units: list[str]
    """Names of the run's cores, such as ``core 0``, or of its GPUs, such as ``0``."""


class Local(Launcher):
    """Launches runs on this machine. Without ``max_jobs`` no two runs are given the same GPU or
    core at a time.
    """

    pause = 0.2

    def __init__(self, main: Main, max_jobs: int | None) -> None:
        super().__init__(main, max_jobs)
        self.cores = [f"core {i}" for i in range(count_cores())]
        self._context = multiprocessing.get_context("forkserver")
        self._context.set_forkserver_preload(["xceptlab.launch.preload"])

    @functools.cached_property
    def gpus(self) -> list[str]:
        """Names, as in CUDA_VISIBLE_DEVICES, of the GPUs that this process may use; empty where
        there is none.
        """
        if not any(Path(driver).exists() for driver in DRIVERS):
            return []
        import torch

        # torch counts only the GPUs that CUDA_VISIBLE_DEVICES names.
        count = torch.cuda.device_count()
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
            units = self.choose_devices(job.config)
            if units is None:
                # Later runs wait, too: else a run on many devices would never have its turn.
                return
            environment = _environment()
            if self._uses_gpus(job.config):
                environment["CUDA_VISIBLE_DEVICES"] = ",".join(units)
            fresh = job.config.runtime.devices > 1
            arguments = (self.main, job.write_config(), job.log, environment, fresh)
            process = self._context.Process(target=_run, args=arguments, name=job.config.run_id)
            # The first start waits until the fork server has loaded. State and handle are set only
            # after it: a Ctrl-C during that wait leaves a waiting job, with no process to stop.
            with _without_main():
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
        finally:
            self._end(signal.SIGKILL, 1.0)

    def choose_devices(self, config: RunConfig) -> list[str] | None:
        """Choose the least used GPUs or cores for a run, and return their names; None while the run
        has to wait for free ones, which it never has to with ``max_jobs``. A run that asks for more
        cores than there are gets all of them.
        """
        runs_on: Counter[str] = Counter()
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
        # With a limit the user has said how many runs share the machine.
        if self.max_jobs is not None:
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
                except ProcessLookupError:
                    # The process is gone, or has not made its own group yet.
                    process.kill()
        deadline = time.monotonic() + patience
        while time.monotonic() < deadline and any(process.exitcode is None for process in running):
            time.sleep(0.05)


@contextlib.contextmanager
def _without_main() -> Iterator[None]:
    """Keep multiprocessing from importing the program's main module again in the processes that are
    started within this block; a run needs nothing of it.

    A user's script that runs a study without ``if __name__ == "__main__"`` would else start the
    study once more in each run.
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


@functools.cache
def _names_at_first_start() -> frozenset[str]:
    """Return the names of this process's environment variables when this function was first called,
    which is just before the fork server starts and inherits them.
    """
    return frozenset(os.environ)


def _environment() -> dict[str, str | None]:
    """Return this process's environment variables, and None for those that have been removed since
    the fork server inherited them.
    """
    return {**dict.fromkeys(_names_at_first_start()), **os.environ}


def _run(
    main: Main, argv: list[str], log: Path, environment: dict[str, str | None], fresh: bool
) -> None:
    """Train a run and exit with its exit code: the body of a process that was forked from the fork
    server.

    Args:
        main: ``xceptlab``'s main function.
        argv: Arguments of ``main``.
        log: File of the run's output.
        environment: Values of environment variables, of which the fork server may have older ones;
            None removes a variable. What libraries have set in the server stays.
        fresh: Whether to train in a new interpreter, whose command Lightning can execute again for
            each further device, rather than in this process.
    """
    os.setsid()
    for name, value in environment.items():
        if value is None:
            os.environ.pop(name, None)
        else:
            os.environ[name] = value
    die_with_parent()
    sys.exit(execute(main, argv, log, fresh=fresh))
