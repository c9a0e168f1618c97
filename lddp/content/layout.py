"""The directory of a store, and what a start leaves in it.

blobs/<digest>          whole contents; "-chained" after the name of one that has no digest of its bytes
packs/<pack id>         packs that did not fit into memory or had to be durable
parts/<digest>.part     pulls that broke, to be resumed
incoming/               what is being written; emptied at start
suspects/<digest>       blobs that the disk may not have; hashed before they are trusted again
boot                    the kernel's boot id when the store was last opened
"""

from __future__ import annotations

import os

from lddp.content.disk import remove
from lddp.content.packs import is_hex_name
from lddp.content.suspects import suspect_at_start
from lddp.core.records import Content

DIGEST_BYTES = 32
CHAINED = "-chained"
PART = ".part"


def name_of(content: Content) -> str:
    """Of its blob."""
    return content.digest.hex() + ("" if content.sealed else CHAINED)


def prepare(directory: str, *, has_lost: bool) -> None:
    """Before the store in this directory is opened. `has_lost`: in this boot the filesystem has not written all that it
    had taken, and nothing made of that since is believed."""
    for name in ("", "blobs", "packs", "parts", "incoming", "suspects"):
        os.makedirs(os.path.join(directory, name), mode=0o700, exist_ok=True)
    for name in os.listdir(os.path.join(directory, "incoming")):
        remove(os.path.join(directory, "incoming", name))
    for name in os.listdir(os.path.join(directory, "parts")):
        if has_lost or not (name.endswith(PART) and is_hex_name(name.removesuffix(PART), DIGEST_BYTES)):
            remove(os.path.join(directory, "parts", name))
    for name in os.listdir(os.path.join(directory, "blobs")):
        if not is_hex_name(name.removesuffix(CHAINED), DIGEST_BYTES):
            remove(os.path.join(directory, "blobs", name))
    suspect_at_start(directory, CHAINED, has_lost=has_lost)
