"""fsspec's own suite for implementations, against three real zones."""

from __future__ import annotations

import posixpath
from collections.abc import Callable

import pytest
from fsspec.tests import abstract

from lddp.doors.fsspec import LddpFileSystem


class Fixtures(abstract.AbstractFixtures):
    """Fixtures of a class hide those of its folder: these give them back."""

    @pytest.fixture
    def fs(self, mounted: LddpFileSystem) -> LddpFileSystem:
        return mounted

    @pytest.fixture
    def fs_path(self, directory: str) -> str:
        return directory

    @pytest.fixture
    def fs_join(self) -> Callable[..., str]:
        return posixpath.join


class TestCopy(abstract.AbstractCopyTests, Fixtures):
    pass


class TestGet(abstract.AbstractGetTests, Fixtures):
    pass


class TestPut(abstract.AbstractPutTests, Fixtures):
    pass


class TestPipe(abstract.AbstractPipeTests, Fixtures):
    pass


class TestOpen(abstract.AbstractOpenTests, Fixtures):
    pass
