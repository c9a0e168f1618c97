"""The Raft member: PySyncObj with its faults closed; the only importer of it."""
