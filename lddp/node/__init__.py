"""The composition root: one node, put together from its parts and run."""

from lddp.node.runtime import run

__all__ = ["run"]
