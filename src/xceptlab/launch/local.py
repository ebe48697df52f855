"""Runs on this machine, one process group each; the cores or GPUs are shared out.

A run on one device is forked from a server process that has torch and Lightning loaded (0.2 s in place of some 8 s a run). A
run on several devices starts a fresh interpreter, which Lightning's own launcher then executes once per device.
"""

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
from typing import NamedTuple

from xceptlab.config.schema import RunConfig
from xceptlab.errors import Refused
from xceptlab.launch.launcher import CHECKPOINT_SECONDS, Job, Launcher, Main, check_one_node, execute
from xceptlab.signals import die_with_parent

DRIVERS = ("/proc/driver/nvidia", "/dev/nvidiactl", "/dev/dxg", "/dev/kfd")
"""Where the drivers of NVIDIA, WSL and AMD are to be seen; without any of them, torch need not be imported to count GPUs."""


class _Started(NamedTuple):
    process: BaseProcess
    units: list[str]


class Local(Launcher):
    """Runs on this machine. Without a number of ``jobs`` no two runs share a GPU or, as far as it can be, a core."""

    pause = 0.2

    def __init__(self, main: Main, jobs: int | None) -> None:
        super().__init__(main, jobs)
        count = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        self.cores = [f"core {i}" for i in range(count)]
        self._context = multiprocessing.get_context("forkserver")
        self._context.set_forkserver_preload(["xceptlab.launch.preload"])

    @functools.cached_property
    def gpus(self) -> list[str]:
        """The GPUs that are there and that this process may use, as CUDA_VISIBLE_DEVICES lists them."""
        if not any(Path(driver).exists() for driver in DRIVERS):
            return []
        import torch

        count = torch.cuda.device_count()  # of those that the mask lets through
        mask = os.environ.get("CUDA_VISIBLE_DEVICES")
        return mask.split(",")[:count] if mask is not None else [str(i) for i in range(count)]

    def check(self, config: RunConfig) -> None:
        check_one_node(config)
        devices, units = config.runtime.devices, self._units(config)
        if units is not self.cores and devices > len(units):
            raise Refused(f"runtime.devices: {devices} GPUs a run are asked for, {len(units)} are there")

    def begin(self, ready: Iterator[Job]) -> None:
        for job in ready:
            units = self.room(job.config)
            if units is None:
                return  # later ones wait too, or a large run would never have its turn
            devices = ",".join(units) if self._units(job.config) is not self.cores else None
            fresh = job.config.runtime.devices > 1
            process = self._context.Process(
                target=_forked, args=(self.main, job.prepare(), job.log, devices, fresh), name=job.config.run_id
            )
            process.start()  # the first one waits for the server to load; interrupted there, there is no process yet
            job.state, job.handle = "running", _Started(process, units)

    def exit_codes(self, jobs: list[Job]) -> dict[str, int]:
        return {job.config.run_id: code for job in jobs if (code := job.handle.process.exitcode) is not None}

    def stop(self) -> None:
        try:
            self._end(signal.SIGTERM, CHECKPOINT_SECONDS)
        finally:  # also when this is interrupted
            self._end(signal.SIGKILL, 1.0)

    def room(self, config: RunConfig) -> list[str] | None:
        """The GPUs or cores for a run, the least used ones; None while it has to wait for them."""
        load = Counter(unit for job in self.jobs.values() if job.handle for unit in job.handle.units)
        units = self._units(config)
        wanted = config.runtime.devices * (config.train.threads if units is self.cores else 1)
        chosen = sorted(units, key=lambda unit: load[unit])[:wanted]
        return chosen if self.limit or not any(load[unit] for unit in chosen) else None

    def _units(self, config: RunConfig) -> list[str]:
        return self.gpus if config.runtime.accelerator in ("auto", "gpu") and self.gpus else self.cores

    def _end(self, number: signal.Signals, patience: float) -> None:
        """Ask each run's process, which asks its own; or kill the whole group."""
        running: list[BaseProcess] = [job.handle.process for job in self.jobs.values() if job.handle]
        for process in running:
            if process.exitcode is None:
                assert process.pid
                try:
                    (os.kill if number == signal.SIGTERM else os.killpg)(process.pid, number)
                except ProcessLookupError:  # it has not made its own group yet, or is gone
                    process.kill()
        deadline = time.monotonic() + patience
        while time.monotonic() < deadline and any(process.exitcode is None for process in running):
            time.sleep(0.05)


def _forked(main: Main, argv: list[str], log: Path, devices: str | None, fresh: bool) -> None:
    """A run's process, forked from the server."""
    os.setsid()
    if devices is not None:
        os.environ["CUDA_VISIBLE_DEVICES"] = devices
    die_with_parent()
    sys.exit(execute(main, argv, log, fresh=fresh))
