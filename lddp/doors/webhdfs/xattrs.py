"""SETXATTR, GETXATTRS, LISTXATTRS, REMOVEXATTR.

Values in URLs and JSON are text in double quotes, hexadecimal after `0x`, or base64 after `0s` (Hadoop's XAttrCodec).
Names begin with a namespace. Clients have `user.`, and `trusted.` where the node is root; `system.`, `security.` and
`raw.` belong to HDFS's own machinery there and to the kernel here, and are refused.
"""

from __future__ import annotations

import base64
import binascii
import errno
import json
import os

from aiohttp import web

from lddp.core import limits
from lddp.core import records as r
from lddp.core.records import XattrFlag
from lddp.doors.webhdfs import remote
from lddp.doors.webhdfs.context import Context, answer, done
from lddp.doors.webhdfs.remote import RemoteError, illegal, of_errno
from lddp.serving.paths import text_of

NAMESPACES = (b"user.", b"trusted.", b"security.", b"system.", b"raw.")
ENCODINGS = ("TEXT", "HEX", "BASE64")
FLAGS = ("CREATE", "REPLACE")


def encode(value: bytes, encoding: str) -> str:
    """TEXT where nothing else is asked for; bytes that are no text are in base64 then, since the prefix says so."""
    if encoding == "HEX":
        return "0x" + value.hex()
    if encoding != "BASE64":
        try:
            return f'"{value.decode()}"'
        except UnicodeDecodeError:
            pass  # no text
    return "0s" + base64.b64encode(value).decode("ascii")


def decode(text: str) -> bytes:
    """Raises RemoteError for digits that are none."""
    try:
        match text[:2].lower():
            case "0x":
                return binascii.unhexlify(text[2:])
            case "0s":
                return base64.b64decode(text[2:], validate=True)
    except (binascii.Error, ValueError):
        raise illegal("xattr.value", f"{text[:40]!r} is not {text[:2]} and its digits") from None
    if len(text) >= 2 and text[0] == text[-1] == '"':
        text = text[1:-1]
    return text.encode("utf-8", "surrogateescape")


def _name(text: str) -> bytes:
    name = text.encode("utf-8", "surrogateescape")
    namespace = next((one for one in NAMESPACES if name.lower().startswith(one)), b"")
    if not namespace or len(name) == len(namespace):
        raise RemoteError(
            remote.ILLEGAL_ARGUMENT,
            "An XAttr name must be prefixed with user/trusted/security/system/raw, followed by a '.' and a name",
        )
    if b"\0" in name or len(name) > limits.XATTR_NAME_BYTES_MAX:
        raise illegal("xattr.name", f"it has NUL or more than {limits.XATTR_NAME_BYTES_MAX} bytes")
    return namespace + name[len(namespace) :]


def _visible(name: bytes) -> bool:
    return name.startswith(b"user.") or (name.startswith(b"trusted.") and os.geteuid() == 0)


def _own_name(context: Context) -> bytes:
    """The one name that a change is about."""
    text = context.parameters.text("xattr.name")
    if not text:
        raise illegal("xattr.name", "it is missing")
    name = _name(text)
    if not _visible(name):
        raise RemoteError(remote.ACCESS, f"User doesn't have permission for xattr: {text[:300]}")
    return name


async def set_xattr(context: Context) -> web.StreamResponse:
    name, value = _own_name(context), decode(context.parameters.text("xattr.value"))
    if len(value) > limits.XATTR_VALUE_BYTES_MAX:
        raise RemoteError(
            remote.ILLEGAL_ARGUMENT,
            f"The XAttr is too big. The maximum size of a value is {limits.XATTR_VALUE_BYTES_MAX}, it has {len(value)}",
        )
    wanted = context.parameters.choices("flag", *FLAGS)
    flag = XattrFlag[min(wanted)] if len(wanted) == 1 else XattrFlag.NONE
    (outcome,) = await context.submit(r.SetXattr(*context.stamp(), context.changeable(), name, value, flag))
    match outcome.errno:
        case errno.EEXIST:
            raise RemoteError(remote.IO, f"XAttr: {text_of(name)} already exists. The REPLACE flag must be specified.")
        case errno.ENODATA:
            raise RemoteError(remote.IO, f"XAttr: {text_of(name)} does not exist. The CREATE flag must be specified.")
        case number if number:
            raise of_errno(number, f"SETXATTR {context.shown}")
    return done()


async def remove_xattr(context: Context) -> web.StreamResponse:
    record = r.RemoveXattr(*context.stamp(), context.changeable(), _own_name(context))
    (outcome,) = await context.submit(record)
    if outcome.errno == errno.ENODATA:
        raise RemoteError(remote.IO, "No matching attributes found for remove operation")
    if outcome.errno:
        raise of_errno(outcome.errno, f"REMOVEXATTR {context.shown}")
    return done()


async def get_xattrs(context: Context) -> web.StreamResponse:
    encoding = context.parameters.choice("encoding", *ENCODINGS)
    present = {name: value for name, value in context.require().xattrs if _visible(name)}
    names = [_name(text) for text in context.parameters.texts("xattr.name")]
    if any(name not in present for name in names):
        raise RemoteError(remote.IO, "At least one of the attributes provided was not found.")
    rows = [{"name": text_of(name), "value": encode(present[name], encoding)} for name in names or present]
    return answer({"XAttrs": rows})


async def list_xattrs(context: Context) -> web.StreamResponse:
    names = [text_of(name) for name, _ in context.require().xattrs if _visible(name)]
    return answer({"XAttrNames": json.dumps(names)})
