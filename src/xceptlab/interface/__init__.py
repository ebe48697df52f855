"""The Python interface, for notebooks: studies and runs as objects and pandas tables.
``docs/python.md`` shows all of it.

They do what the commands do, and by default show no progress; notices, such as that files are
ignored, go to standard error. ``run`` configures and trains single runs, ``study`` plans, trains
and reports studies, ``judging`` has their verdicts. What a user can mend raises ``Refused``, whose
text is one line. Nothing heavy is imported before it is needed: tables need pandas, networks need
torch.
"""

from xceptlab.interface.judging import Verdicts, judge
from xceptlab.interface.run import Run, configure, train
from xceptlab.interface.study import Study

__all__ = ["Run", "Study", "Verdicts", "configure", "judge", "train"]
