"""Authenticated, framed connections between the nodes of one ecosystem."""
