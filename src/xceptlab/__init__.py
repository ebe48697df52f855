"""xceptlab: controlled ablation studies of Xception. Importing it costs nothing; see ``xceptlab --help``."""

__version__ = "0.1.0"

try:
    import fcntl as _posix  # noqa: F401
except ImportError:
    import sys

    print("xceptlab: needs a POSIX system, such as Linux or macOS; on Windows it runs in WSL", file=sys.stderr)
    raise SystemExit(2) from None
