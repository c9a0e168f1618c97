"""Makes an ecosystem's certificate authority and its nodes' certificates: ECDSA on P-256, TLS both ways.

`cryptography` is imported when a certificate is made and not before: a node that only uses its certificate starts
without it.
"""

from __future__ import annotations

import os
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

from lddp.errors import UsageError
from lddp.links.credentials import Credentials

if TYPE_CHECKING:
    from cryptography import x509
    from cryptography.hazmat.primitives.asymmetric import ec

AUTHORITY_CERTIFICATE = "authority.pem"
AUTHORITY_KEY = "authority.key"
VALID_DAYS_DEFAULT = 3650
_NAME_CHARACTERS_MAX = 64
"""X.520's bound for a common name and an organisation."""


def create_authority(directory: str, *, ecosystem: str, valid_days: int = VALID_DAYS_DEFAULT) -> None:
    """Writes `authority.pem` and `authority.key` (mode 0600) into `directory`. Raises UsageError where they exist."""
    from cryptography import x509
    from cryptography.hazmat.primitives.asymmetric import ec

    _check_name("ecosystem", ecosystem)
    key = ec.generate_private_key(ec.SECP256R1())
    name = _subject(ecosystem, f"{ecosystem} authority"[:_NAME_CHARACTERS_MAX])
    builder = _builder(name, name, key.public_key(), valid_days).add_extension(
        x509.BasicConstraints(ca=True, path_length=0), critical=True
    )
    builder = builder.add_extension(_key_usage(authority=True), critical=True)
    builder = builder.add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
    _write_pair(directory, AUTHORITY_CERTIFICATE, AUTHORITY_KEY, _sign(builder, key), key)


def issue(authority: str, directory: str, *, node: str, valid_days: int = VALID_DAYS_DEFAULT) -> Credentials:
    """Makes `node.pem` and `node.key` in `directory`, signed by the authority in the directory `authority`.

    The authority's certificate is copied beside them. Raises UsageError where the authority is missing or a file of
    that name exists.
    """
    from cryptography import x509
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

    _check_name("node", node)
    try:
        with open(os.path.join(authority, AUTHORITY_CERTIFICATE), "rb") as file:
            authority_pem = file.read()
        with open(os.path.join(authority, AUTHORITY_KEY), "rb") as file:
            authority_key = serialization.load_pem_private_key(file.read(), password=None)
    except FileNotFoundError as error:
        raise UsageError(f"{error.filename} is missing; make the ecosystem's authority first") from error
    assert isinstance(authority_key, ec.EllipticCurvePrivateKey), "we make no other keys"
    authority_certificate = x509.load_pem_x509_certificate(authority_pem)
    ecosystem = str(authority_certificate.subject.get_attributes_for_oid(NameOID.ORGANIZATION_NAME)[0].value)
    key = ec.generate_private_key(ec.SECP256R1())
    subject = _subject(ecosystem, node)
    builder = _builder(subject, authority_certificate.subject, key.public_key(), valid_days)
    usages = [ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]
    builder = (
        builder.add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_key_usage(authority=False), critical=True)
        .add_extension(x509.ExtendedKeyUsage(usages), critical=False)
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(node)]), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(authority_key.public_key()), critical=False)
    )
    _write_pair(directory, f"{node}.pem", f"{node}.key", _sign(builder, authority_key), key)
    authority_copy = os.path.join(directory, AUTHORITY_CERTIFICATE)
    if not os.path.exists(authority_copy):
        _write_new(authority_copy, authority_pem)
    return Credentials(authority_copy, os.path.join(directory, f"{node}.pem"), os.path.join(directory, f"{node}.key"))


def _check_name(what: str, name: str) -> None:
    allowed = name.isascii() and all(character.isalnum() or character in "-_." for character in name)
    if not allowed or not 0 < len(name) <= _NAME_CHARACTERS_MAX or name.startswith("."):
        raise UsageError(f"{name!r} is no name for a {what}; use up to {_NAME_CHARACTERS_MAX} of a-z 0-9 - _ .")


def _subject(ecosystem: str, name: str) -> x509.Name:
    from cryptography import x509
    from cryptography.x509.oid import NameOID

    return x509.Name(
        [x509.NameAttribute(NameOID.ORGANIZATION_NAME, ecosystem), x509.NameAttribute(NameOID.COMMON_NAME, name)]
    )


def _builder(
    subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePublicKey, valid_days: int
) -> x509.CertificateBuilder:
    from cryptography import x509

    now = datetime.now(UTC)
    # An hour back, for nodes whose clock is a little behind.
    return x509.CertificateBuilder(
        issuer, subject, key, x509.random_serial_number(), now - timedelta(hours=1), now + timedelta(days=valid_days)
    )


def _key_usage(*, authority: bool) -> x509.KeyUsage:
    from cryptography import x509

    return x509.KeyUsage(
        digital_signature=not authority,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=authority,
        crl_sign=authority,
        encipher_only=False,
        decipher_only=False,
    )


def _sign(builder: x509.CertificateBuilder, key: ec.EllipticCurvePrivateKey) -> x509.Certificate:
    from cryptography.hazmat.primitives import hashes

    return builder.sign(key, hashes.SHA256())


def _write_pair(
    directory: str, certificate_name: str, key_name: str, certificate: x509.Certificate, key: ec.EllipticCurvePrivateKey
) -> None:
    from cryptography.hazmat.primitives import serialization

    os.makedirs(directory, mode=0o700, exist_ok=True)
    key_pem = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    _write_new(os.path.join(directory, key_name), key_pem)
    _write_new(os.path.join(directory, certificate_name), certificate.public_bytes(serialization.Encoding.PEM))


def _write_new(path: str, data: bytes) -> None:
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    except FileExistsError as error:
        raise UsageError(f"{path} exists; it is not replaced, move it away to make a new one") from error
    with open(descriptor, "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
