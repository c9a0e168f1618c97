"""A node's certificate and key, and what the certificate of the other end says."""

from __future__ import annotations

import os
import ssl
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from lddp.errors import ConfigError, NotAllowedError


@dataclass(frozen=True, slots=True)
class Credentials:
    """Paths of PEM files. The authority signs exactly the nodes of one ecosystem; the certificate's common name is
    the node's name and its organisation the ecosystem's id."""

    authority: str
    certificate: str
    key: str

    def server_context(self) -> ssl.SSLContext:
        """For accepting connections from nodes that show a certificate of the same authority. Raises ConfigError."""
        return self._context(ssl.PROTOCOL_TLS_SERVER)

    def client_context(self) -> ssl.SSLContext:
        """For connecting to such nodes. Raises ConfigError."""
        return self._context(ssl.PROTOCOL_TLS_CLIENT)

    def _context(self, protocol: ssl._SSLMethod) -> ssl.SSLContext:
        refuse_readable_key(self.key)
        context = ssl.SSLContext(protocol)
        context.minimum_version = ssl.TLSVersion.TLSv1_3
        # Nodes are known by the name in their certificate, not by where they are reached.
        context.check_hostname = False
        context.verify_mode = ssl.CERT_REQUIRED
        try:
            context.load_verify_locations(cafile=self.authority)
            context.load_cert_chain(self.certificate, self.key)
        except FileNotFoundError as error:
            missing = [path for path in (self.authority, self.certificate, self.key) if not os.path.exists(path)]
            raise ConfigError(f"{', '.join(missing)} is missing; issue this node's certificate first") from error
        except (ssl.SSLError, OSError) as error:
            raise ConfigError(
                f"{self.certificate} and {self.key} cannot be used ({error}); issue them again"
            ) from error
        return context


def report_failed_handshakes(context: ssl.SSLContext, report: Callable[[str], None]) -> None:
    """From now on `report` hears why a handshake with this context failed, which event loops keep to themselves."""

    class Shaken(ssl.SSLObject):
        def do_handshake(self) -> None:
            try:
                super().do_handshake()
            except (ssl.SSLWantReadError, ssl.SSLWantWriteError):
                raise
            except ssl.SSLError as error:
                report(_why_it_failed(error))
                raise

    context.sslobject_class = Shaken


def _why_it_failed(error: ssl.SSLError) -> str:
    match error:
        case ssl.SSLCertVerificationError():
            return f"its certificate is not of this ecosystem ({error.verify_message}); use 'lddp init --join'"
        case ssl.SSLError(reason="PEER_DID_NOT_RETURN_A_CERTIFICATE"):
            return "it showed no certificate; give the node its credentials"
    reason = (error.reason or str(error)).lower().replace("_", " ")
    return f"it does not speak TLS as nodes do ({reason}); only nodes connect here"


def refuse_readable_key(path: str) -> None:
    """Raises ConfigError where others may read the private key."""
    try:
        mode = os.stat(path).st_mode
    except OSError:
        return
    if mode & 0o077:
        raise ConfigError(f"{path} can be read by others; chmod 600 it")


def certified_name(certificate: dict[str, Any] | None, ecosystem: str) -> str:
    """The node's name in a verified peer certificate as `ssl.getpeercert` gives it.

    Raises NotAllowedError for none, for one of another ecosystem, or one without exactly one name.
    """
    if not certificate:
        raise NotAllowedError("the peer showed no certificate; give the node its credentials")
    fields = [pair for group in certificate.get("subject", ()) for pair in group]
    names = [value for key, value in fields if key == "commonName"]
    organisations = [value for key, value in fields if key == "organizationName"]
    if organisations != [ecosystem]:
        raise NotAllowedError(f"the peer's certificate is for ecosystem {organisations}, not {ecosystem!r}")
    if len(names) != 1:
        raise NotAllowedError("the peer's certificate does not hold exactly one name; issue it again")
    return str(names[0])
