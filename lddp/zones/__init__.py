"""Zone filesystems; POSIX."""
