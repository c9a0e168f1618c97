"""Every limit of the record format and of the namespace, in one place."""

NAME_BYTES_MAX = 255
PATH_BYTES_MAX = 64 * 1024
PATH_COMPONENTS_MAX = 4096
SYMLINK_TARGET_BYTES_MAX = 4095
XATTR_NAME_BYTES_MAX = 255
XATTR_VALUE_BYTES_MAX = 64 * 1024
XATTRS_BYTES_MAX = 256 * 1024
INLINE_BYTES_MAX = 16 * 1024
FILE_BYTES_MAX = 2**63 - 1
GROWN_BYTES_MAX = 2**44 - 4096
"""How large operations may make a file in place: what ext4 takes with blocks of 4 KiB."""
LINKS_MAX = 65_000
DEVICE_MAX = 2**32 - 1
"""As Linux's mknod takes them."""
INODE_MAX = 2**63 - 1
OBSERVATION_ITEMS_MAX = 8192
RECORD_BYTES_MAX = 4 * 1024 * 1024
ENTRY_BYTES_MAX = 8 * 1024 * 1024
ZONES_MAX = 64
SESSION_WINDOW_RECORDS = 100_000
"""A client's outcome is remembered for at least this many later records."""
