"""Deliberate faults of the product, each of which the simulator must notice."""
