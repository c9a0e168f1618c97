"""A zone's file becomes a blob before it is changed."""

from __future__ import annotations

from lddp.content.store import Store
from lddp.core.records import Content


def save(store: Store, content: Content, descriptor: int) -> bool:
    """Copies an open file into the store, synced, if its bytes are the content's and not there yet; whether they are
    there. OSError where there is no room. Blocking."""
    assert content.sealed and not content.pack, "a file whose bytes have a digest"
    if store.sync(content):
        return True
    arrival = store.arrival(durable=True)
    try:
        while not arrival.take_from(descriptor, content.size):
            pass
        if arrival.offset != content.size or arrival.seal() != content.digest:
            return False
        store.publish(arrival, content.digest, durable=True)
        return True
    finally:
        arrival.discard()
