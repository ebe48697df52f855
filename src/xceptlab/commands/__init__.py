"""The commands: studies (``study``), single runs (``run``), data sets (``data``) and benchmarks
(``bench``).

A command is a function that is named as the user calls it, and whose docstring is its help. It
takes the parsed options and, as they stand on the command line, the files and overrides of a run's
configuration (``layers``, such as ``["-c", "cifar10.yaml", "--train.lr", "0.05"]``); it returns the
exit code. Nothing heavy is imported before a command needs it.
"""
