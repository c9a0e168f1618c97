"""Ways in for clients."""
