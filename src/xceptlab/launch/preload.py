"""What the server loads before it forks runs."""

import sklearn.datasets  # noqa: F401

from xceptlab.train import git_state

git_state()  # of the code that is loaded here, for the records of all runs
