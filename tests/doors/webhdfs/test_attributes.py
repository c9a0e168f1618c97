"""Permissions, owners, times, replication, links, extended attributes, access."""

from __future__ import annotations

import json
import os
import pwd
from typing import Any

import pytest

from lddp.access import Entry
from lddp.core import records as r
from lddp.core.records import Kind
from lddp.doors.webhdfs import xattrs
from lddp.doors.webhdfs.identity import Account, allowed
from lddp.doors.webhdfs.remote import RemoteError
from tests.doors.webhdfs.conftest import Client
from tests.doors.webhdfs.machine import MachineBackend


@pytest.fixture
async def file(http: Client) -> str:
    await http.create("/data/x", b"abc")
    return "/data/x"


async def test_set_permission(http: Client, file: str) -> None:
    for given, found in (("1777", "1777"), ("0", "0"), ("640", "640"), ("", "755")):
        answer = await http("PUT", f"{file}?op=SETPERMISSION&permission={given}")
        assert (answer.status, answer.body) == (200, b"")
        assert (await http.status(file))["permission"] == found
    assert (await http("PUT", "/data/none?op=SETPERMISSION")).error == (404, "FileNotFoundException")
    assert (await http("PUT", f"{file}?op=SETPERMISSION&permission=999")).error == (400, "IllegalArgumentException")


async def test_set_owner(http: Client, node: MachineBackend, file: str) -> None:
    someone = next(entry for entry in pwd.getpwall() if entry.pw_uid != os.getuid())
    assert (await http("PUT", f"{file}?op=SETOWNER&owner={someone.pw_name}&group=4711")).status == 200
    status = await http.status(file)
    assert (status["owner"], status["group"]) == (someone.pw_name, "4711")
    assert (await http("PUT", f"{file}?op=SETOWNER&owner=4712")).status == 200
    entry = node.entry(b"/data/x")
    assert entry is not None
    assert (entry.uid, entry.gid) == (4712, 4711)
    for query in ("", "&owner=no.such.user", "&group=no.such.group", f"&owner={2**32 - 1}", "&owner=-1", "&owner=%00"):
        assert (await http("PUT", f"{file}?op=SETOWNER{query}")).error == (400, "IllegalArgumentException")


async def test_set_times(http: Client, file: str) -> None:
    assert (await http("PUT", f"{file}?op=SETTIMES&modificationtime=1234567890123&accesstime=5")).status == 200
    assert (await http.status(file))["modificationTime"] == 1234567890123
    assert (await http("PUT", f"{file}?op=SETTIMES&modificationtime=-1&accesstime=-1")).status == 200
    assert (await http("PUT", f"{file}?op=SETTIMES")).status == 200
    assert (await http.status(file))["modificationTime"] == 1234567890123
    for wrong in ("-2", str(2**63), str(2**62), "now"):
        answer = await http("PUT", f"{file}?op=SETTIMES&modificationtime={wrong}")
        assert answer.error == (400, "IllegalArgumentException")
    assert (await http("PUT", "/data/none?op=SETTIMES")).error == (404, "FileNotFoundException")


async def test_set_replication_is_accepted(http: Client, file: str) -> None:
    assert (await http("PUT", f"{file}?op=SETREPLICATION&replication=3")).document == {"boolean": True}
    assert (await http("PUT", "/data?op=SETREPLICATION&replication=3")).document == {"boolean": False}
    assert (await http("PUT", f"{file}?op=SETREPLICATION&replication=0")).error == (400, "IllegalArgumentException")
    assert (await http("PUT", f"{file}?op=SETREPLICATION&replication=32768")).error == (400, "IllegalArgumentException")


async def test_create_symlink(http: Client, file: str) -> None:
    answer = await http("PUT", "/data/new/l?op=CREATESYMLINK&destination=../x&createParent=true")
    assert (answer.status, answer.body) == (200, b"")
    assert (await http.status("/data/new/l"))["symlink"] == "../x"
    assert (await http("PUT", "/data/a/l?op=CREATESYMLINK&destination=x")).error == (404, "FileNotFoundException")
    again = await http("PUT", f"{file}?op=CREATESYMLINK&destination=x")
    assert again.error == (403, "FileAlreadyExistsException")
    for wrong in ("", "a%00b", "x" * 4096):
        answer = await http("PUT", f"/data/l?op=CREATESYMLINK&destination={wrong}")
        assert answer.error == (400, "IllegalArgumentException")


async def test_get_acl_status(http: Client, file: str) -> None:
    await http("PUT", f"{file}?op=SETPERMISSION&permission=1750")
    status = (await http("GET", f"{file}?op=GETACLSTATUS")).document["AclStatus"]
    assert (status["entries"], status["permission"], status["stickyBit"]) == ([], "750", True)
    assert (await http("PUT", f"{file}?op=SETACL&aclspec=user::rwx")).error == (400, "UnsupportedOperationException")


# -- access -----------------------------------------------------------------------------------------------------------

ALICE = Account("alice", 5001, 6001, frozenset({6001, 6002}), False)
STRANGER = Account("stranger", 0, 0, frozenset(), False)
ROOT = Account("root", 0, 0, frozenset({0}), True)


@pytest.mark.parametrize(
    ("account", "owner", "group", "mode", "granted"),
    [
        (ROOT, 5001, 6001, 0o000, "rwx"),
        (ALICE, 5001, 1, 0o700, "rwx"),
        (ALICE, 5001, 6001, 0o077, ""),
        (ALICE, 1, 6002, 0o740, "r"),
        (ALICE, 1, 6002, 0o707, ""),
        (ALICE, 1, 1, 0o771, "x"),
        (STRANGER, 0, 0, 0o771, "x"),
    ],
)
def test_the_first_class_that_fits_decides(account: Account, owner: int, group: int, mode: int, granted: str) -> None:
    entry = Entry(Kind.FILE, 1, 1, mode, owner, group, 0, 0, 1, False)
    for letter in "rwx":
        assert allowed(account, entry, letter) == (letter in granted)
    assert allowed(account, entry, "rwx") == (granted == "rwx")
    assert allowed(account, entry, "---")


async def test_check_access(http: Client, file: str) -> None:
    await http("PUT", f"{file}?op=SETPERMISSION&permission=604")
    assert (await http("GET", f"{file}?op=CHECKACCESS&fsaction=rw-")).status == 200
    assert (await http("GET", f"{file}?op=CHECKACCESS&fsaction=r--&user.name=no_such_user")).status == 200
    refused = await http("GET", f"{file}?op=CHECKACCESS&fsaction=-w-&user.name=no_such_user")
    assert refused.error == (403, "AccessControlException")
    assert (await http("GET", "/data/none?op=CHECKACCESS&fsaction=r--")).error == (404, "FileNotFoundException")
    for wrong in ("", "rwxr", "wrx", "7"):
        answer = await http("GET", f"{file}?op=CHECKACCESS&fsaction={wrong}")
        assert answer.error == (400, "IllegalArgumentException")


# -- extended attributes ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("plain", b"plain"),
        ('"quoted"', b"quoted"),
        ('""', b""),
        ("", b""),
        ('"', b'"'),
        ("0x00ff", b"\0\xff"),
        ("0XFF", b"\xff"),
        ("0sAP8=", b"\0\xff"),
        ("0SAP8=", b"\0\xff"),
        ("0x", b""),
    ],
)
def test_decoding_values(text: str, value: bytes) -> None:
    assert xattrs.decode(text) == value


@pytest.mark.parametrize("text", ["0x1", "0xzz", "0s*", "0sA"])
def test_values_that_are_none(text: str) -> None:
    with pytest.raises(RemoteError):
        xattrs.decode(text)


def test_encoding_values() -> None:
    assert xattrs.encode(b"abc", "") == xattrs.encode(b"abc", "TEXT") == '"abc"'
    assert xattrs.encode(b"abc", "HEX") == "0x616263"
    assert xattrs.encode(b"abc", "BASE64") == "0sYWJj"
    assert xattrs.encode(b"\xff", "TEXT") == "0s/w=="
    for encoding in ("", *xattrs.ENCODINGS):
        for value in (b"", b"abc", b"\xff\0", "ä".encode()):
            assert xattrs.decode(xattrs.encode(value, encoding)) == value


async def listed(http: Client, path: str, query: str = "") -> Any:
    answer = await http("GET", f"{path}?op=GETXATTRS{query}")
    return {one["name"]: one["value"] for one in answer.document["XAttrs"]}


async def test_xattrs(http: Client, file: str) -> None:
    for name, value in (("user.a", '"one"'), ("user.b", "0xff00"), ("USER.c", "0sYWJj")):
        answer = await http("PUT", f"{file}?op=SETXATTR&xattr.name={name}&xattr.value={value}&flag=CREATE")
        assert (answer.status, answer.body) == (200, b"")
    assert await listed(http, file, "&encoding=text") == {"user.a": '"one"', "user.b": "0s/wA=", "user.c": '"abc"'}
    assert await listed(http, file, "&encoding=HEX&xattr.name=user.a&xattr.name=user.c") == {
        "user.a": "0x6f6e65",
        "user.c": "0x616263",
    }
    answer = await http("GET", f"{file}?op=LISTXATTRS")
    assert json.loads(answer.document["XAttrNames"]) == ["user.a", "user.b", "user.c"]
    assert (await http("PUT", f"{file}?op=REMOVEXATTR&xattr.name=user.a")).status == 200
    assert (await http("PUT", f"{file}?op=REMOVEXATTR&xattr.name=user.a")).error == (403, "IOException")
    assert (await http("GET", f"{file}?op=GETXATTRS&xattr.name=user.a")).error == (403, "IOException")
    assert (await http("GET", f"{file}?op=GETXATTRS&encoding=utf7")).error == (400, "IllegalArgumentException")
    assert (await http("GET", "/data/none?op=LISTXATTRS")).error == (404, "FileNotFoundException")


async def test_xattr_flags(http: Client, file: str) -> None:
    def target(flag: str) -> str:
        return f"{file}?op=SETXATTR&xattr.name=user.a&xattr.value=1&flag={flag}"

    assert (await http("PUT", target("REPLACE"))).error == (403, "IOException")
    assert (await http("PUT", target("create"))).status == 200
    assert (await http("PUT", target("CREATE"))).error == (403, "IOException")
    for flag in ("REPLACE", "CREATE,REPLACE", ""):
        assert (await http("PUT", target(flag))).status == 200
    assert (await http("PUT", target("OTHER"))).error == (400, "IllegalArgumentException")


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("", (400, "IllegalArgumentException")),
        ("plain", (400, "IllegalArgumentException")),
        ("user.", (400, "IllegalArgumentException")),
        ("user.a%00b", (400, "IllegalArgumentException")),
        ("user." + "x" * 251, (400, "IllegalArgumentException")),
        ("system.posix_acl_access", (403, "AccessControlException")),
        ("security.selinux", (403, "AccessControlException")),
        ("raw.hdfs", (403, "AccessControlException")),
    ],
)
async def test_names_that_clients_do_not_have(
    http: Client, node: MachineBackend, file: str, name: str, expected: tuple[int, str]
) -> None:
    before = node.applied()
    for operation in ("SETXATTR&xattr.value=1", "REMOVEXATTR"):
        assert (await http("PUT", f"{file}?op={operation}&xattr.name={name}")).error == expected
    assert node.applied() == before


async def test_attributes_of_the_kernel_are_not_shown(http: Client, node: MachineBackend, file: str) -> None:
    node.apply(r.SetXattr(node.next_id(), 0, 1, b"/data/x", b"security.capability", b"x"))
    assert await listed(http, file) == {}
    answer = await http("GET", f"{file}?op=GETXATTRS&xattr.name=security.capability")
    assert answer.error == (403, "IOException")


async def test_a_link_has_no_user_attributes(http: Client) -> None:
    await http("PUT", "/data/l?op=CREATESYMLINK&destination=x")
    answer = await http("PUT", "/data/l?op=SETXATTR&xattr.name=user.a&xattr.value=1")
    assert answer.error == (403, "AccessControlException")
