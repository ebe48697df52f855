"""The Python interface, for notebooks: studies and runs as objects and pandas tables.
``docs/python.md`` shows all of it.

A thin layer over what the commands do, quiet by default: ``run`` configures and trains single runs,
``study`` has studies, ``judging`` verdicts. What a user can mend is a ``Refused`` of one line.
Nothing heavy is imported before it is needed: reading results needs pandas, networks need torch.
"""

from xceptlab.interface.judging import Verdicts, judge
from xceptlab.interface.run import Run, configure, train
from xceptlab.interface.study import Study

__all__ = ["Run", "Study", "Verdicts", "configure", "judge", "train"]
