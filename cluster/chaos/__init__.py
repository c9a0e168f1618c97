"""Live chaos: real nodes in network namespaces, faults of many kinds at once, and checks of all that was said."""
