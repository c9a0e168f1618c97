"""When to ask for votes: election timeouts, pre-vote, and loyalty to a leader that is heard.

Pre-vote and loyalty are from Ongaro's thesis, 9.6 and 4.2.3: a member asks whether it would be elected before it
raises its term, and members that hear a leader say no. So a member that was stalled or cut off, and then finds its
timer run out, deposes nobody. Decisions only; messages and times come from outside.
"""

from __future__ import annotations

from lddp.ports import Random

RECONNECT_JITTER_S = 0.05
_LATE_S = 0.1


class Election:
    """Times are seconds of one monotonic clock. `peers` is the number of other voters."""

    def __init__(self, *, peers: int, timeout_min_s: float, timeout_max_s: float, random: Random, now: float) -> None:
        self._peers = peers
        self._timeout_min_s = timeout_min_s
        self._timeout_max_s = timeout_max_s
        self._random = random
        self._heard_at: float | None = None
        self._granted: set[str] | None = None
        self._excused = False
        self._canvassed_term = 0
        self.deadline = now if peers == 0 else now + self._timeout()

    def hears_leader(self, now: float) -> bool:
        """A leader was heard within the shortest election timeout."""
        return self._heard_at is not None and now - self._heard_at < self._timeout_min_s

    def heard_leader(self, now: float) -> None:
        self._heard_at = now
        self.deadline = now + self._timeout()
        self._granted = None
        self._excused = False

    def lost_leader(self, now: float) -> None:
        """The link to the leader broke: a sign, not a proof. Loyalty ends; the others must agree."""
        self._heard_at = None
        self.hasten(now)

    def hasten(self, now: float) -> None:
        """Something happened that makes an election likely to succeed."""
        self.deadline = min(self.deadline, now + self._random.uniform(0.0, RECONNECT_JITTER_S))

    def postpone(self, now: float) -> None:
        """Another is being elected."""
        self.deadline = now + self._timeout()
        self._granted = None

    def due(self, now: float) -> bool:
        """The time to canvass is there. After a stall the clock says so first, while a heartbeat may be lying unread:
        that gets a moment to be read."""
        if now < self.deadline:
            return False
        if self._peers and now - self.deadline > _LATE_S and not self._excused:
            # Once only: on a machine that is always late there must be a leader too.
            self._excused = True
            self.deadline = now + self._random.uniform(0.0, RECONNECT_JITTER_S)
            return False
        return True

    def canvass(self, term: int, now: float) -> bool:
        """Starts asking for `term`; True when no others need to be asked."""
        self.deadline = now + self._timeout()
        self._granted = set()
        self._excused = False
        self._canvassed_term = term
        return self._peers == 0

    @property
    def canvassing(self) -> bool:
        return self._granted is not None

    def granted(self, peer: str, term: int) -> bool:
        """`peer` would vote for us in `term`; True at the moment when a majority would."""
        if self._granted is None or term != self._canvassed_term:
            return False
        self._granted.add(peer)
        if len(self._granted) + 1 <= (self._peers + 1) // 2:
            return False
        self._granted = None
        return True

    def _timeout(self) -> float:
        return self._random.uniform(self._timeout_min_s, self._timeout_max_s)
