"""Effects onto a zone."""
