"""What the server loads before it forks runs."""

import contextlib
import signal

_before = signal.signal(signal.SIGINT, signal.SIG_IGN)  # a terminal's Ctrl-C is for the coordinator, which ends the server

from xceptlab.runs.world import forget  # noqa: E402

forget()  # Lightning reads ranks when it is imported, and the runs have the server's environment

import sklearn.datasets  # noqa: E402, F401

from xceptlab.config.loading import load_run  # noqa: E402
from xceptlab.models.cost import cost  # noqa: E402
from xceptlab.training import weights_and_biases  # noqa: E402
from xceptlab.training.train import git_state  # noqa: E402

git_state()  # of the code that is loaded here, for the records of all runs
defaults = load_run([])
cost(defaults.model, defaults.data.classes, defaults.data.size)  # each first call loads what it needs, half a second's worth
with contextlib.suppress(Exception):  # a broken W&B is nothing that a study has to end for
    if weights_and_biases.WANDB:
        weights_and_biases.client()
signal.signal(signal.SIGINT, _before)
