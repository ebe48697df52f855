"""What the server loads before it forks runs."""

import sklearn.datasets  # noqa: F401

import xceptlab.train  # noqa: F401
