"""Certificates of a throw-away cluster: one client authority, one for the front proxy, and what they sign."""

from __future__ import annotations

import base64
import ipaddress
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import yaml
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

LIFETIME = timedelta(days=30)
ADMINISTRATORS = "system:masters"  # the group that RBAC never refuses


@dataclass(frozen=True)
class Identity:
    """A certificate and its private key, both as PEM."""

    certificate: bytes
    key: bytes

    def write(self, folder: Path, name: str) -> tuple[Path, Path]:
        """Write `<name>.crt` and `<name>.key` (the key readable by its owner only); returns both paths."""
        certificate, key = folder / f"{name}.crt", folder / f"{name}.key"
        certificate.write_bytes(self.certificate)
        key.touch(mode=0o600)
        key.write_bytes(self.key)
        return certificate, key


def key_pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    """A private key as unencrypted PEM."""
    form = serialization.PrivateFormat.TraditionalOpenSSL
    return key.private_bytes(serialization.Encoding.PEM, form, serialization.NoEncryption())


def public_pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    """The public half of a key as PEM."""
    form = serialization.PublicFormat.SubjectPublicKeyInfo
    return key.public_key().public_bytes(serialization.Encoding.PEM, form)


def new_key() -> ec.EllipticCurvePrivateKey:
    """A fresh P-256 key: made in under a millisecond, where RSA takes a tenth of a second."""
    return ec.generate_private_key(ec.SECP256R1())


class Authority:
    """A certificate authority that lives as long as the object, or as the folder it was written to."""

    def __init__(self, key: ec.EllipticCurvePrivateKey, certificate: x509.Certificate) -> None:
        self._key = key
        self._certificate = certificate

    @classmethod
    def create(cls, name: str) -> Authority:
        """A new authority."""
        key = new_key()
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        constraints = x509.BasicConstraints(ca=True, path_length=0)
        builder = _builder(subject, subject, key).add_extension(constraints, critical=True)
        return cls(key, builder.sign(key, hashes.SHA256()))

    @classmethod
    def load(cls, folder: Path, name: str) -> Authority:
        """Read an authority that `Identity.write` put into a folder."""
        key = serialization.load_pem_private_key((folder / f"{name}.key").read_bytes(), password=None)
        if not isinstance(key, ec.EllipticCurvePrivateKey):
            raise TypeError(f"{folder}/{name}.key is no elliptic curve key")
        return cls(key, x509.load_pem_x509_certificate((folder / f"{name}.crt").read_bytes()))

    @property
    def identity(self) -> Identity:
        """The authority's own certificate and key."""
        return Identity(self._certificate.public_bytes(serialization.Encoding.PEM), key_pem(self._key))

    def issue(self, user: str, groups: Sequence[str] = (), hosts: Sequence[str] = ()) -> Identity:
        """A certificate for client and server use. hosts: addresses and names it may serve under."""
        names = [x509.NameAttribute(NameOID.ORGANIZATION_NAME, group) for group in groups]
        subject = x509.Name([*names, x509.NameAttribute(NameOID.COMMON_NAME, user)])
        key = new_key()
        usages = x509.ExtendedKeyUsage([ExtendedKeyUsageOID.CLIENT_AUTH, ExtendedKeyUsageOID.SERVER_AUTH])
        builder = _builder(subject, self._certificate.subject, key).add_extension(usages, critical=False)
        if hosts:
            builder = builder.add_extension(x509.SubjectAlternativeName([_host(h) for h in hosts]), critical=False)
        made = builder.sign(self._key, hashes.SHA256())
        return Identity(made.public_bytes(serialization.Encoding.PEM), key_pem(key))


def _builder(subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePrivateKey) -> x509.CertificateBuilder:
    now = datetime.now(UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(hours=1))
        .not_valid_after(now + LIFETIME)
    )


def _host(name: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(name))
    except ValueError:
        return x509.DNSName(name)


def kubeconfig(server: str, authority: bytes, user: str, identity: Identity, context: str = "testbed") -> str:
    """A kubeconfig that stands alone: certificates and key inside."""

    def text(pem: bytes) -> str:
        return base64.b64encode(pem).decode()

    cluster = {"server": server, "certificate-authority-data": text(authority)}
    who = {
        "client-certificate-data": text(identity.certificate),
        "client-key-data": text(identity.key),
    }
    content: dict[str, Any] = {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": context, "cluster": cluster}],
        "users": [{"name": user, "user": who}],
        "contexts": [{"name": context, "context": {"cluster": context, "user": user}}],
        "current-context": context,
    }
    return yaml.safe_dump(content, sort_keys=False)
