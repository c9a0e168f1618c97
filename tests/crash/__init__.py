"""Nodes that are killed at every system call, disks that lose power, and images of what a disk may hold then."""
