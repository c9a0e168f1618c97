"""Tests of the pure core: codec, namespace, merge rule, effects, digests."""
