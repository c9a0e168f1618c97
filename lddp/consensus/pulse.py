"""When a leader sends what is not an entry: signs of life, and the news of a commit."""

from __future__ import annotations

from math import inf

from lddp.consensus.config import RaftConfig

_PATIENCE = 4
"""So many times as long as usual, at most, the news of a commit waits where another entry is likely to carry it."""


class Pulse:
    """Of one member, whether it leads or not. Times are seconds of one monotonic clock."""

    def __init__(self, config: RaftConfig) -> None:
        self._heartbeat_s = config.heartbeat_s
        self._commit_notice_s = config.commit_notice_s
        self._beat_at = inf
        self._notice_at = inf
        self._probed_at = -inf
        self._told = 0
        self._known = 0
        self._known_at = -inf
        self._notice_after_s = config.commit_notice_s
        self.awaited = 0
        """The last entry whose commit a follower waits for: its news does not wait for company."""

    @property
    def next_at(self) -> float:
        return min(self._beat_at, self._notice_at)

    def beat(self, now: float) -> None:
        """A sign of life is due: somebody is new here, or this member is."""
        self._beat_at = now

    def forget(self) -> None:
        """The leadership is another one: of no commit is known who has heard of it."""
        self._told = 0

    def rest(self) -> None:
        """This member does not lead."""
        self._beat_at = self._notice_at = inf

    def is_due(self, now: float, commit: int) -> bool:
        """Whether something is to be sent although there is no entry to send."""
        if commit > self._known:
            self._learn(now, commit)
        if commit > self._told and self._told < self.awaited:
            self._notice_at = now
        elif commit > self._told and self._notice_at == inf:
            self._notice_at = now + self._notice_after_s
        return now >= self.next_at

    def _learn(self, now: float, commit: int) -> None:
        """Where commits come one after the other, the next entry is waited for once more."""
        pause_s = now - self._known_at
        self._known, self._known_at = commit, now
        longest_s = _PATIENCE * self._commit_notice_s
        self._notice_after_s = self._commit_notice_s
        if pause_s < longest_s:
            self._notice_after_s = min(max(self._commit_notice_s, 2 * pause_s), longest_s)

    def is_probing(self, now: float) -> bool:
        """Whether a sign of life is due for those who are sent nothing else; it counts as sent then."""
        if now - self._probed_at < self._heartbeat_s:
            return False
        self._probed_at = now
        return True

    def sent(self, now: float, commit: int) -> None:
        """Everybody was sent something that tells of this commit."""
        self._beat_at = now + self._heartbeat_s
        self._notice_at = inf
        self._told = commit
