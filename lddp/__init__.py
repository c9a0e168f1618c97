"""lddp, an open LiveData Plane: file trees replicated between zones through one totally ordered log."""

__version__ = "0.1.0"
