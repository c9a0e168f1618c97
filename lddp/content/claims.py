"""Who may still have use for a blob, besides the effects that name it: the uploads that brought it.

The store has equal bytes once, whoever brought them. A record will name what an upload brought, or none will; until
that is known the bytes are claimed, and not even who else has done with them drops them. When the last upload gives
them up, they go, unless they also came another way or somebody has looked at them: then they may be counted on
elsewhere (a node that pushed them here counts this one among those who have them), and who counts on them, or the
sweep, lets them go.

What other nodes push here for their clients is kept apart in the same way, by the names of those uploads: where the
record of one is refused its node says so. These claims end as soon as any record names the bytes: its effects let them
go then.

An upload may wait for its record for as long as there is no majority, so its claim stays while there is an object that
will say what becomes of it. What nobody can tell any more ends after some looks of the sweep.
"""

from __future__ import annotations

import weakref
from collections import OrderedDict

UNDECIDED_MAX = 10_000
"""Blobs. Beyond that the oldest are not claimed any more."""
LOOKS = 2
"""Of the sweep, that the claim of an upload of this node survives whose object is gone."""
PUSHED_LOOKS = 14
"""That one of another node survives, which says nothing while it waits: a week."""


class _Claim:
    __slots__ = ("shared", "uploads")

    def __init__(self, shared: bool) -> None:
        self.uploads: dict[object, int] = {}
        """How many looks found each undecided, and without an object."""
        self.shared = shared


class Claims:
    """By the names of blobs. The store holds its lock around every call. Uploads are objects, which are referred to
    weakly, or have names."""

    def __init__(self, looks: int = LOOKS) -> None:
        self._looks = looks
        self._claims: OrderedDict[str, _Claim] = OrderedDict()

    def __contains__(self, name: str) -> bool:
        return name in self._claims

    def __len__(self) -> int:
        """Blobs with undecided uploads."""
        return len(self._claims)

    def come(self, name: str, upload: object | None, is_present: bool) -> None:
        """A blob has come: by an upload, or (None) in another way. `is_present`: it was here before."""
        if upload is None:
            self.share(name)
            return
        if name not in self._claims:
            self._claims[name] = _Claim(shared=is_present)
            while len(self._claims) > UNDECIDED_MAX:
                self._claims.popitem(last=False)
        self._claims[name].uploads[_key(upload)] = 0

    def share(self, name: str) -> None:
        """Somebody else may rely on this blob from now on."""
        if name in self._claims:
            self._claims[name].shared = True

    def confirm(self, name: str, upload: object) -> None:
        """A record names what the upload brought."""
        self.share(name)
        self._end(name, upload)

    def give_up(self, name: str, upload: object) -> bool:
        """No record will name it. True where nobody else has use for it."""
        claim = self._claims.get(name)
        return claim is not None and self._end(name, upload) and not claim.shared

    def _end(self, name: str, upload: object) -> bool:
        """True where it was the last one."""
        claim = self._claims.get(name)
        if claim is None or upload is None or _key(upload) not in claim.uploads:
            return False
        del claim.uploads[_key(upload)]
        if not claim.uploads:
            del self._claims[name]
        return not claim.uploads

    def let_go(self, name: str) -> bool:
        """Who relied on it, but for uploads, does so no more. True where there are no uploads either."""
        if name in self._claims:
            self._claims[name].shared = False
        return name not in self._claims

    def forget(self, name: str) -> None:
        """Nobody is asked any more."""
        self._claims.pop(name, None)

    def grow_old(self) -> None:
        """A look of the sweep. Forgets uploads of which nobody will ever know what became of them."""
        for name, claim in list(self._claims.items()):
            for upload, looks in list(claim.uploads.items()):
                if isinstance(upload, weakref.ref) and upload() is not None:
                    continue
                claim.uploads[upload] = looks + 1
                if looks + 1 >= self._looks:
                    del claim.uploads[upload]
            if not claim.uploads:
                del self._claims[name]


def _key(upload: object) -> object:
    return upload if isinstance(upload, bytes | str) else weakref.ref(upload)
