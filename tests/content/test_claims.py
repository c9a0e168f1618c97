"""What a refused upload brought leaves the store, and equal bytes that somebody else has use for do not."""

from __future__ import annotations

import os
import threading

import pytest
from blake3 import blake3

from lddp.content.claims import LOOKS, PUSHED_LOOKS, UNDECIDED_MAX, Claims
from lddp.content.source import FileSource
from lddp.content.store import Store
from lddp.core.records import Content

LARGE = bytes(range(256)) * 100


def upload(store: Store, data: bytes, by: str) -> Content:
    with store.writer(by) as writer:
        writer.write(data)
        return writer.commit(sync=False)


def arrive(store: Store, data: bytes) -> None:
    """As from another node."""
    arrival = store.arrival()
    arrival.write([data])
    store.publish(arrival, arrival.seal())


def take_back(store: Store, content: Content, by: str) -> None:
    store.take_back(content, by, is_needed=False)


def test_an_upload_that_nobody_needs_is_taken_back(store: Store) -> None:
    content = upload(store, LARGE, "a")
    take_back(store, content, "a")
    assert store.open(content) is None
    assert store.usage().blobs == store.undecided() == 0
    assert os.listdir(os.path.join(store.directory, "incoming")) == []
    take_back(store, content, "a")  # and again
    take_back(store, upload(store, b"inline", "a"), "a")


def test_the_last_of_the_uploads_of_the_same_bytes_takes_them_along(store: Store) -> None:
    """Two clients upload the same bytes; the record of one is refused, and then that of the other."""
    content = upload(store, LARGE, "a")
    assert upload(store, LARGE, "b") == content
    for one, left in (("b", 1), ("b", 1), ("a", 0)):
        take_back(store, content, one)
        assert store.usage().blobs == store.undecided() == left


def test_an_upload_does_not_take_back_a_later_one(store: Store) -> None:
    """Its own bytes have gone into a file of the zone meanwhile, and an equal blob was made anew."""
    content = upload(store, LARGE, "a")
    store.confirm(content, "a")
    store.release(content)
    assert upload(store, LARGE, "b") == content
    take_back(store, content, "a")
    assert store.open(content) is not None


def test_bytes_that_came_another_way_too_stay(store: Store) -> None:
    """From another node, which counts this one among those who have them; or for a record of before."""
    for first in (True, False):
        data = LARGE + bytes([first])
        if first:
            arrive(store, data)
        content = upload(store, data, "a")
        if not first:
            arrive(store, data)
        take_back(store, content, "a")
        assert store.open(content) is not None
        assert not store.undecided()


def test_bytes_that_somebody_needs_stay(store: Store) -> None:
    looked, kept, needed, used, own = (upload(store, LARGE + bytes([number]), "a") for number in range(5))
    for number in range(5):
        upload(store, LARGE + bytes([number]), "b")
    assert store.open(looked) is not None
    store.keep(kept)
    store.confirm(used, "b")
    descriptor = store.held_as(own, share=False)
    assert isinstance(descriptor, int)
    os.close(descriptor)
    for content in (looked, kept, needed, used, own):
        for one in ("a", "b"):
            store.take_back(content, one, is_needed=content == needed)
    for content in (looked, kept, needed, used):
        assert store.open(content) is not None
    assert store.open(own) is None, "the upload itself has looked at it, to push it"


def test_an_upload_that_could_not_be_stored_claims_nothing(store: Store) -> None:
    os.rename(os.path.join(store.directory, "blobs"), os.path.join(store.directory, "away"))
    with pytest.raises(FileNotFoundError):
        upload(store, LARGE, "a")
    assert not store.undecided()


def test_what_is_released_stays_for_an_upload_that_is_undecided(store: Store) -> None:
    """The zones have made the files of an earlier record; one more of the same bytes is about to come."""
    for is_refused in (True, False):
        arrive(store, LARGE)
        content = upload(store, LARGE, "a")
        source = store.open(content)
        assert isinstance(source, FileSource)
        assert source.to_take() is None, "nor does a zone take it for its file"
        store.release(content)
        assert store.open(content, share=False) is not None
        if is_refused:
            take_back(store, content, "a")
        else:
            store.confirm(content, "a")
            assert store.open(content) is not None
            store.release(content)
        assert store.usage().blobs == store.undecided() == 0


def push(store: Store, data: bytes, by: bytes) -> Content:
    """As from another node, for an upload there."""
    arrival = store.arrival()
    arrival.write([data])
    digest = arrival.seal()
    store.publish(arrival, digest, pushed=by)
    return Content(digest, len(data))


def test_what_another_node_pushed_for_an_upload_goes_with_it(store: Store) -> None:
    content = push(store, LARGE, b"a")
    assert push(store, LARGE, b"b") == content
    for one, left in ((b"x", 1), (b"b", 1), (b"a", 0), (b"a", 0)):
        store.take_back(content, one, is_needed=False)
        assert store.usage().blobs == left


def test_what_another_node_pushed_stays_where_it_is_of_use(store: Store) -> None:
    before, after, looked, kept, needed = (LARGE + bytes([number]) for number in range(5))
    upload(store, before, "own")
    contents = [push(store, data, b"a") for data in (before, after, looked, kept, needed)]
    upload(store, after, "own")
    assert store.open(contents[2]) is not None
    store.keep(contents[3])
    for content in contents:
        store.take_back(content, b"a", is_needed=content == contents[4])
        assert store.open(content) is not None


def test_effects_let_go_of_what_another_node_pushed(store: Store) -> None:
    """Once a record names it; and a later push of the same bytes is a new one."""
    content = push(store, LARGE, b"a")
    source = store.open(content)
    assert isinstance(source, FileSource)
    assert source.to_take() is None
    store.release(content)
    assert store.usage().blobs == 1, "the other node counts on it"
    store.named(content)
    assert source.to_take() is not None
    store.release_refused()
    assert store.usage().blobs == 0
    push(store, LARGE, b"b")
    store.take_back(content, b"a", is_needed=False)
    assert store.usage().blobs == 1


@pytest.mark.parametrize("is_carried_out", [False, True])
def test_what_comes_behind_the_record_that_names_it_is_its_effects(store: Store, is_carried_out: bool) -> None:
    """A slow push, or one more of the same bytes: nobody will say that it is named."""
    content = Content(blake3(LARGE).digest(), len(LARGE))
    if is_carried_out:
        store.keep(content)
    else:
        store.is_expected = content.__eq__
    assert push(store, LARGE, b"a") == content
    store.release(content)
    assert store.usage().blobs == 1
    if is_carried_out:
        store.unkeep(content)
    else:
        store.is_expected = lambda _content: False
    store.release_refused()
    assert store.usage().blobs == 0


def test_what_was_refused_and_has_come_anew_is_not_dropped(store: Store) -> None:
    content = upload(store, LARGE, "a")
    store.release(content)
    arrive(store, LARGE)
    store.confirm(content, "a")
    store.release_refused()
    assert store.open(content) is not None


class Waiting:
    """An upload that will say what became of it."""


def test_an_upload_that_waits_for_its_record_is_not_forgotten(store: Store) -> None:
    waiting = Waiting()
    with store.writer(waiting) as writer:
        writer.write(LARGE)
        content = writer.commit(sync=False)
    del writer
    for _ in range(5):
        store.forget_undecided()
        store.release(content)
    assert store.open(content, share=False) is not None
    del waiting
    for _ in range(LOOKS):
        store.forget_undecided()
    store.release_refused()
    assert store.open(content) is None


def test_what_another_node_pushed_and_says_nothing_of_ends_late(store: Store) -> None:
    content = push(store, LARGE, b"a")
    for _ in range(PUSHED_LOOKS - 1):
        store.forget_undecided()
        store.release(content)
        assert store.open(content, share=False) is not None
    store.forget_undecided()
    store.release(content)
    assert store.open(content) is None


def test_an_upload_that_is_undecided_for_ever_is_forgotten(store: Store) -> None:
    old = upload(store, LARGE, "a")
    store.forget_undecided()
    young = upload(store, LARGE + b"young", "a")
    store.forget_undecided()
    for content in (old, young):
        store.release(content)
    assert store.open(old) is None
    assert store.open(young) is not None


def test_of_too_many_undecided_uploads_the_oldest_are_forgotten() -> None:
    claims = Claims()
    for number in range(UNDECIDED_MAX + 1):
        claims.come(str(number), "a", is_present=False)
    assert len(claims) == UNDECIDED_MAX
    assert not claims.give_up("0", "a")
    assert claims.give_up("1", "a")


def test_a_push_that_is_stored_while_its_record_is_folded_claims_nothing(store: Store) -> None:
    """It had been looked whether the bytes are expected, and they became so before they had their name."""
    content = Content(blake3(LARGE).digest(), len(LARGE))
    folding = threading.Thread(target=store.named, args=(content,))

    def is_expected(_content: Content) -> bool:
        if folding.ident is not None:
            return False
        folding.start()
        folding.join(0.5)  # ends here if it does not wait for the push
        return False

    store.is_expected = is_expected
    assert push(store, LARGE, b"a") == content
    folding.join()
    store.release(content)
    assert store.usage().blobs == 0
