"""Leadership goes to where the work is.

A record that another member submits makes two ways more than one of the leader's own: to the leader, and back with the
news of its commit. A leader that orders nearly all records for one and the same other voter hands over to it, where
that costs nobody anything: every member is linked and has the whole log. Asking the heir to stand for election is the
leadership transfer of Ongaro's thesis (3.10); as there, the old leader appends nothing meanwhile, or the heir's log
would not be new enough. Whatever becomes of it, nothing is lost: at worst somebody is elected later.
"""

from __future__ import annotations

from math import inf

from lddp.consensus.config import RaftConfig
from lddp.consensus.core import Core
from lddp.consensus.wire import HandOver, Outlet

_SHARE_MIN = 0.9
_LOOKS = 2
"""How often in a row it has to be the same member."""


class Workload:
    """What a leader orders, by whose it is, and the way of the leadership there."""

    def __init__(self, config: RaftConfig, core: Core, outlet: Outlet) -> None:
        self._core = core
        self._outlet = outlet
        self._peers = frozenset(config.peers)
        self._rest_s = config.follow_workload_s
        self._look_s = config.follow_look_s
        self._records_min = config.follow_records_min
        self._pause_s = config.election_timeout_min_s
        self._came: dict[str, int] = {}
        self._ordered = 0
        self._look_at = -inf
        self._heir: str | None = None
        self._found = 0
        """How often in a row it was this heir."""
        self._rest_until = -inf
        self._asked: str | None = None
        self._paused_until = -inf
        self._kept: tuple[str | None, float] = (None, -inf)
        """For whom what waits here is kept, and until when."""

    # -- what is ordered --------------------------------------------------------------------------------------------

    def came(self, peer: str, records: int) -> None:
        self._came[peer] = self._came.get(peer, 0) + records

    def ordered(self, records: int) -> None:
        """Of this member's own, or what others have sent. Whoever was asked to lead has not all any more."""
        self._ordered += records
        self._asked = None

    def forget(self) -> None:
        """Another leadership has begun."""
        if self._asked is not None:
            self._kept = self._asked, self._paused_until
        self._came.clear()
        self._ordered = self._found = 0
        self._look_at = -inf
        self._heir = self._asked = None
        self._paused_until = -inf

    def keeps(self, leader: str | None, now: float) -> bool:
        """Whether what waits here is for `leader`, who was asked to lead and has all that was ordered here; while there
        is none, for whoever was asked."""
        heir, until = self._kept
        return leader in (None, heir) and now <= until

    def was_given(self, now: float) -> None:
        """This member is asked to lead."""
        self._rest_until = now + self._rest_s

    # -- where it goes ----------------------------------------------------------------------------------------------

    def follow(self, now: float) -> None:
        """Called as leader in each cycle, before anything is appended."""
        if not self._rest_s:
            return
        if now >= self._look_at:
            self._look(now)
        heir = self._heir
        if heir is not None and self._found >= _LOOKS and now >= self._rest_until and self._is_quiet():
            self._rest_until = now + self._rest_s
            self.hand_over(heir, now)

    def _look(self, now: float) -> None:
        heir = max(self._came, key=self._came.__getitem__, default=None)
        is_much = heir is not None and self._came[heir] >= max(self._records_min, _SHARE_MIN * self._ordered)
        if self._look_at == -inf or not is_much:
            heir = None
        self._found = self._found + 1 if heir is not None and heir == self._heir else int(heir is not None)
        self._heir = heir
        self._came.clear()
        self._ordered = 0
        self._look_at = now + self._look_s

    def _is_quiet(self) -> bool:
        """Every member is linked and has everything."""
        core = self._core
        if core.linked != self._peers or core.throttled or core.sidelined:
            return False
        return core.commit == core.last and all(core.matched(peer) == core.last for peer in self._peers)

    def hand_over(self, peer: str, now: float) -> bool:
        """Asks an up-to-date follower to take over; False where this is not the leader or the peer is behind."""
        core = self._core
        if not core.is_leader or peer not in core.linked or core.matched(peer) != core.last:
            return False
        self._outlet.send(peer, HandOver(core.term))
        self._asked, self._paused_until = peer, now + self._pause_s
        return True

    # -- meanwhile --------------------------------------------------------------------------------------------------

    @property
    def paused_until(self) -> float:
        """Before that nothing is to be appended."""
        is_asked = self._asked is not None and self._asked in self._core.linked
        return self._paused_until if is_asked else -inf
