"""A node's own database."""
