"""One LMDB environment a node."""
