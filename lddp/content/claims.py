"""Who may still have use for a blob, besides the effects that name it: the uploads that brought it.

The store has equal bytes once, whoever brought them. A record will name what an upload brought, or none will; until
that is known the bytes are claimed, and not even who else has done with them drops them. When the last upload gives
them up, they go, unless they also came another way or somebody has looked at them: then they may be counted on
elsewhere (a node that pushed them here counts this one among those who have them), and who counts on them, or the
sweep, lets them go.

What other nodes push here for their clients is kept apart in the same way, by the names of those uploads: where the
record of one is refused its node says so. These claims end as soon as any record names the bytes: its effects let them
go then.
"""

from __future__ import annotations

from collections import OrderedDict

UNDECIDED_MAX = 10_000
"""Blobs. Beyond that the oldest are not claimed any more."""


class _Claim:
    __slots__ = ("shared", "uploads")

    def __init__(self, shared: bool) -> None:
        self.uploads: dict[object, bool] = {}
        """Whether each was undecided at the last sweep already."""
        self.shared = shared


class Claims:
    """By the names of blobs. The store holds its lock around every call."""

    def __init__(self) -> None:
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
        self._claims[name].uploads[upload] = False

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
        if claim is None or upload not in claim.uploads:
            return False
        del claim.uploads[upload]
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
        """Forgets the uploads that were undecided at the last call too: nobody will ever know what became of them."""
        for name, claim in list(self._claims.items()):
            claim.uploads = {upload: True for upload, old in claim.uploads.items() if not old}
            if not claim.uploads:
                del self._claims[name]
