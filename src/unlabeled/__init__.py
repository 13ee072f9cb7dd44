"""Visual features, clusters and a searchable index from images that nobody has labelled."""

from unlabeled.api import cache, check, demo, import_weights, load, resume, train
from unlabeled.version import __version__

__all__ = ["__version__", "cache", "check", "demo", "import_weights", "load", "resume", "train"]
