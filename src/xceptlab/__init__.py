"""xceptlab: controlled ablation studies of Xception. Importing it costs nothing; see ``xceptlab --help``."""

__version__ = "0.1.0"
