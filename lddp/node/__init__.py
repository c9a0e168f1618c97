"""The composition root: one node, put together from its parts and run."""

from lddp.node.process import run, warm_up

__all__ = ["run", "warm_up"]
