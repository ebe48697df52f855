"""xceptlab: controlled ablation studies of Xception. docs/python.md explains its use from Python,
``xceptlab --help`` its commands.

Importing it loads neither torch nor Lightning; a name of the public interface is loaded on first
use. On a system that is not POSIX, such as Windows, the import ends the process with exit code 2.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from xceptlab import register
    from xceptlab.errors import Refused
    from xceptlab.interface import Run, Study, Verdicts, configure, judge, train

__version__ = "0.1.0"
__all__ = ["Refused", "Run", "Study", "Verdicts", "configure", "judge", "register", "train"]

try:
    import fcntl as _posix  # noqa: F401
except ImportError:
    import sys

    print(
        "xceptlab: needs a POSIX system, such as Linux or macOS; on Windows it runs in WSL",
        file=sys.stderr,
    )
    raise SystemExit(2) from None


def __getattr__(name: str) -> Any:
    """Return what a name of the public interface stands for, such as the function ``train``. It is
    imported only now, so that ``import xceptlab`` loads neither torch nor Lightning.

    Raises:
        AttributeError: There is no such name in the public interface.
    """
    if name == "register":
        return importlib.import_module("xceptlab.register")
    if name == "Refused":
        from xceptlab import errors

        return errors.Refused
    if name in __all__:
        from xceptlab import interface

        return getattr(interface, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return [*globals(), *__all__]
