"""Scan, observe, verify."""
