"""Run what is missing of a study, and show it live."""

import dataclasses
import os
import signal
import sys
import time
from collections import Counter
from pathlib import Path

from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from xceptlab.data import locate
from xceptlab.launch.local import Local, Main, State
from xceptlab.records import RunDirectory, progress
from xceptlab.schema import RunConfig
from xceptlab.study import Expansion, Registration

POLL = 0.2
"""Seconds between two looks at the runs."""


def run_missing(expansion: Expansion, jobs: int | None, main: Main) -> dict[str, str]:
    """Train every run of a study that has no record; what is done is not done again.

    Args:
        expansion: The study.
        jobs: Runs at a time; None for one per GPU (or group of GPUs that a run needs), or one per free CPU core.
        main: ``xceptlab``'s main function.

    Returns:
        The runs that failed, with the last line of their log.
    """
    missing = {}
    for (arm, _), run in expansion.runs().items():
        if RunDirectory.of(run.runtime.outputs, run.run_id).record() is None:
            missing[run.run_id] = _of_study(run, expansion.name, arm)
    launcher = None
    if missing:
        for arm_config in expansion.arms.values():
            locate(arm_config.data)
        launcher = Local(main, slots(next(iter(missing.values())), jobs))
    Registration.make(expansion)
    for run in expansion.runs().values():
        RunDirectory.of(run.runtime.outputs, run.run_id).join(expansion.name)
    if launcher is None:
        return {}
    launcher.start(list(missing.values()))
    display = _Display(expansion, missing)
    before = signal.signal(signal.SIGTERM, _terminated)
    try:
        with display:
            while not set((states := launcher.poll()).values()) <= {"done", "failed"}:
                display.show(states)
                time.sleep(POLL)
            display.show(states)
    finally:
        launcher.stop()
        signal.signal(signal.SIGTERM, before)
    return {run_id: _last_line(missing[run_id]) for run_id, state in states.items() if state == "failed"}


def _terminated(number: int, frame: object) -> None:
    raise InterruptedError("interrupted by SIGTERM; the same command continues")


def slots(run: RunConfig, jobs: int | None) -> list[str]:
    """The GPUs of each run at a time, as CUDA_VISIBLE_DEVICES lists them; empty strings on CPUs.

    Raises:
        ValueError: The run needs more GPUs than there are.
    """
    devices, wants = run.runtime.devices, run.runtime.accelerator
    gpus = _gpus() if wants in ("auto", "gpu") else []
    if gpus:
        if devices > len(gpus):
            raise ValueError(f"runtime.devices: {devices} GPUs a run are asked for, {len(gpus)} are there")
        groups = [",".join(gpus[i : i + devices]) for i in range(0, len(gpus) - devices + 1, devices)]
        return [groups[i % len(groups)] for i in range(jobs)] if jobs else groups
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return [""] * (jobs or max(1, cores // (run.train.threads * devices)))


def _gpus() -> list[str]:
    """The GPUs that this process may use."""
    if "CUDA_VISIBLE_DEVICES" in os.environ:
        return [gpu for gpu in os.environ["CUDA_VISIBLE_DEVICES"].split(",") if gpu.strip() not in ("", "-1")]
    if not any(Path(device).exists() for device in ("/proc/driver/nvidia", "/dev/nvidiactl", "/dev/dxg", "/dev/kfd")):
        return []  # no driver of NVIDIA, WSL or AMD; spares a laptop the import of torch
    import torch

    return [str(i) for i in range(torch.cuda.device_count())]


def _of_study(run: RunConfig, study: str, arm: str) -> RunConfig:
    return dataclasses.replace(run, runtime=dataclasses.replace(run.runtime, study=study, arm=arm))


def _last_line(run: RunConfig) -> str:
    log = RunDirectory.of(run.runtime.outputs, run.run_id).path / "log.txt"
    lines = log.read_text(errors="replace").strip().splitlines() if log.exists() else []
    return f"{lines[-1].removeprefix('xceptlab: ') if lines else 'no output'} (see {log})"


class _Display:
    """Live in a terminal; elsewhere one line whenever a run starts or ends."""

    def __init__(self, expansion: Expansion, missing: dict[str, RunConfig]) -> None:
        self.expansion, self.missing = expansion, missing
        self.total = len(expansion.seeds) * len(expansion.arms)
        self.console = Console(highlight=False)
        self.live = Live(console=self.console, refresh_per_second=4) if self.console.is_terminal else None
        self.before: dict[str, State] = dict.fromkeys(missing, "waiting")

    def __enter__(self) -> "_Display":
        print(f"{self.expansion.name}: {self.total} runs, {len(self.missing)} to train; Ctrl-C stops, the same command continues")
        sys.stdout.flush()
        if self.live:
            self.live.start()
        return self

    def __exit__(self, *error: object) -> None:
        if self.live:
            self.live.stop()

    def show(self, states: dict[str, State]) -> None:
        if self.live:
            self.live.update(self._table(states))
        else:
            for run_id, state in states.items():
                if state != self.before[run_id] and state != "waiting":
                    done = self.total - len(states) + Counter(states.values())["done"]
                    score = self._score(run_id) if state == "done" else ""
                    print(f"{self._name(run_id)}: {state}{score} ({done} of {self.total} done)", flush=True)
        self.before = states

    def _name(self, run_id: str) -> str:
        return f"{self.missing[run_id].runtime.arm} seed {self.missing[run_id].seed}"

    def _score(self, run_id: str) -> str:
        record = self._directory(run_id).record()
        if record is None or record.status == "diverged":
            return ", diverged"
        return f", test/top1 {record.metrics['test/top1']:.2f}"

    def _directory(self, run_id: str) -> RunDirectory:
        return RunDirectory.of(self.missing[run_id].runtime.outputs, run_id)

    def _table(self, states: dict[str, State]) -> Group:
        count = Counter(states.values())
        done = self.total - len(states) + count["done"]
        failed = f", {count['failed']} failed" if count["failed"] else ""
        head = Text(f"{done} of {self.total} done, {count['running']} running, {count['waiting']} waiting{failed}", style="bold")
        view = Table("run", box=None, pad_edge=False, header_style="dim")
        for column in ("epoch", "top-1 %", "images/s", "left"):
            view.add_column(column, justify="right", min_width=8)
        for run_id, state in states.items():
            if state == "running":
                epochs = self.missing[run_id].train.epochs
                p = progress(self._directory(run_id), epochs)
                view.add_row(
                    Text(self._name(run_id)),
                    f"{p.epoch:.1f}/{epochs}",
                    "" if p.top1 is None else f"{p.top1:.1f}",
                    "" if p.images_per_second is None else f"{p.images_per_second:,.0f}",
                    "" if p.seconds_left is None else _duration(p.seconds_left),
                )
        parts: list[Text | Table] = [head, view] if view.row_count else [head]
        for state in ("done", "failed", "waiting"):
            runs = [self._name(run_id) for run_id in states if states[run_id] == state]
            if runs:
                parts.append(Text(f"{state}: {', '.join(runs)}", style="dim", no_wrap=True, overflow="ellipsis"))
        return Group(*parts)


def _duration(seconds: float) -> str:
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{seconds:02}" if hours else f"{minutes}:{seconds:02}"
