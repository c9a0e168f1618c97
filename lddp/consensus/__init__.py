"""The Raft member: PySyncObj with its faults closed; the only importer of it."""

from lddp.consensus.config import RaftConfig
from lddp.consensus.core import Role
from lddp.consensus.member import RaftMember

__all__ = ["RaftConfig", "RaftMember", "Role"]
