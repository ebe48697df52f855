"""Signals that ask a process to stop, and processes that die with their parent."""

import contextlib
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from conftest import listen_to_ctrl_c
from xceptlab.errors import Interrupted
from xceptlab.signals import PARENT, SIGNALS, StopSignals


def send(number):
    os.kill(os.getpid(), number)


@pytest.fixture(autouse=True)
def handlers():
    """As they were, also after a process was asked to stop."""
    before = {number: signal.getsignal(number) for number in SIGNALS}
    listen_to_ctrl_c()
    signal.signal(signal.SIGHUP, signal.SIG_DFL)  # which nohup has processes ignore
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.mark.parametrize(
    ("number", "error"),
    [(signal.SIGTERM, Interrupted), (signal.SIGUSR1, Interrupted), (signal.SIGHUP, Interrupted)],
)
def test_a_scheduler_stops_a_process_at_once(number, error):
    with pytest.raises(error, match=signal.Signals(number).name), StopSignals():
        send(number)


def test_ctrl_c_stops_a_process_at_once():
    with pytest.raises(KeyboardInterrupt), StopSignals():
        send(signal.SIGINT)


def train_until(*numbers):
    """What a training does that gets these signals: the number that it sees after each, as long as
    it lives.
    """
    seen = []
    try:
        with StopSignals() as stop_signals, stop_signals.deferred():
            for number in numbers:
                send(number)
                seen.append(stop_signals.number)
    except (KeyboardInterrupt, Interrupted) as error:
        return seen, type(error)
    return seen, None


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1])
def test_a_deferred_signal_is_remembered_until_the_end(number):
    # schedulers may ask twice
    assert train_until(number, signal.SIGTERM) == ([number, number], Interrupted)


def test_of_several_processes_one_tells_what_ctrl_c_does(monkeypatch, capsys):
    monkeypatch.setenv("LOCAL_RANK", "1")  # a stray one tells nothing
    for explain in (True, False):
        with (
            pytest.raises(KeyboardInterrupt),
            StopSignals(explain=explain) as stop_signals,
            stop_signals.deferred(),
        ):
            send(signal.SIGINT)
        assert ("Ctrl-C again stops at once" in capsys.readouterr().err) is explain


def test_ctrl_c_waits_and_a_second_one_does_not(capsys):
    assert train_until(signal.SIGINT) == ([signal.SIGINT], KeyboardInterrupt)
    assert train_until(signal.SIGINT, signal.SIGINT, signal.SIGTERM) == (
        [signal.SIGINT],
        KeyboardInterrupt,
    )
    assert "Ctrl-C again stops at once" in capsys.readouterr().err
    assert train_until(signal.SIGTERM, signal.SIGINT) == ([signal.SIGTERM], KeyboardInterrupt)


def test_a_handler_of_errors_does_not_swallow_a_signal():
    def handled():
        with contextlib.suppress(Exception):
            send(signal.SIGTERM)

    with pytest.raises(Interrupted), StopSignals():
        handled()


@pytest.mark.parametrize("agreed", [False, True])
def test_of_two_inside_each_other_the_inner_one_stays_when_it_was_asked(agreed):
    before = signal.getsignal(signal.SIGTERM)
    try:
        with pytest.raises(Interrupted), StopSignals(), StopSignals() as inner:
            inner.stop(signal.SIGTERM) if agreed else send(signal.SIGTERM)
        send(signal.SIGTERM)  # schedulers may ask twice, the second time while the process ends
    finally:
        signal.signal(signal.SIGTERM, before)


def test_a_process_on_its_way_out_hears_no_more():
    with pytest.raises(Interrupted), StopSignals():
        send(signal.SIGTERM)
    send(signal.SIGTERM)


def test_without_a_request_everything_is_as_before():
    before = signal.getsignal(signal.SIGTERM)
    with StopSignals() as stop_signals, stop_signals.deferred():
        assert signal.getsignal(signal.SIGTERM) != before
    assert signal.getsignal(signal.SIGTERM) == before


def test_what_is_ignored_in_the_background_stays_so():
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    with StopSignals() as stop_signals, stop_signals.deferred():
        send(signal.SIGINT)
    assert stop_signals.number == 0


CHILD = """
import sys, time
from xceptlab.signals import die_with_parent
from xceptlab.config.loading import load_run
from xceptlab.runs.world import World

die_with_parent(World.join(load_run().runtime).starter == "torchrun")
print("up", flush=True)
time.sleep(60)
"""
TORCHRUN = {
    "TORCHELASTIC_RUN_ID": "none", "RANK": "0", "LOCAL_RANK": "0", "GROUP_RANK": "0", "WORLD_SIZE": "1", "LOCAL_WORLD_SIZE": "1",
    "MASTER_PORT": "29500",
}  # fmt: skip
STARTER = "import os, subprocess, sys; subprocess.run([sys.executable, '-c', sys.argv[1]], env=os.environ | eval(sys.argv[2]))"


def alive(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


@pytest.mark.skipif(not Path("/proc").exists(), reason="needs /proc")
@pytest.mark.parametrize(
    ("environment", "dies"),
    [
        (str(TORCHRUN), True),
        (f"{{'{PARENT}': str(os.getpid())}}", True),
        ("{}", False),
        ("{'LOCAL_RANK': '1'}", False),
    ],
)
def test_a_rank_and_a_coordinators_run_die_with_their_parent_and_others_do_not(environment, dies):
    parent = subprocess.Popen(
        [sys.executable, "-c", STARTER, CHILD, environment], stdout=subprocess.PIPE
    )
    assert parent.stdout.readline() == b"up\n"
    child = int(Path(f"/proc/{parent.pid}/task/{parent.pid}/children").read_text())
    parent.kill()
    parent.wait()
    deadline = time.monotonic() + (30 if dies else 1.5)
    while alive(child) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert alive(child) is not dies
    if not dies:
        os.kill(child, signal.SIGKILL)


ENDS_WHILE_WORKERS_START = """
import os, signal, time
from torch.utils.data import DataLoader
from xceptlab.signals import belong_to_parent

def begin(number):
    belong_to_parent(number)
    print(os.getpid(), flush=True)
    time.sleep(3)

loader = DataLoader(range(8), num_workers=2, worker_init_fn=begin, multiprocessing_context="fork")
batches = iter(loader)
time.sleep(1)
os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.mark.skipif(not Path("/proc").exists(), reason="needs /proc")
def test_workers_end_with_a_parent_that_is_killed_while_they_start():
    parent = subprocess.Popen(
        [sys.executable, "-c", ENDS_WHILE_WORKERS_START], stdout=subprocess.PIPE, text=True
    )
    assert parent.stdout is not None
    workers = [int(parent.stdout.readline()) for _ in range(2)]
    assert parent.wait() == -signal.SIGKILL
    deadline = time.monotonic() + 10
    while any(map(alive, workers)) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not any(map(alive, workers))
