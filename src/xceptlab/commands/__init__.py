"""The commands: studies (``study``), single runs (``run``), data sets (``data``) and benchmarks
(``bench``).

A command is a function that is named as the user calls it, and whose docstring is its help. It
takes the parsed options and the layers of a run's configuration, and returns the exit code. Nothing
heavy is imported before a command needs it.
"""
