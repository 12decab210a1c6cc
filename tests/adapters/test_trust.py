"""Certificates of API servers, over real handshakes: those that Python 3.13 refuses by default, and wrong ones."""

from __future__ import annotations

import ssl
from pathlib import Path

import pytest

from gemmaspec.adapters.trust import as_kubectl_does
from testbed.pki import Authority

HOST = "api.example"


@pytest.fixture
def authority() -> Authority:
    """One whose certificates carry no identifier of its key."""
    return Authority.create("a cluster's")


def strict(authority: Authority) -> ssl.SSLContext:
    """A client's, with the defaults of Python 3.13 in every version."""
    context = ssl.create_default_context(cadata=authority.identity.certificate.decode())
    context.verify_flags |= ssl.VERIFY_X509_STRICT
    return context


def shake_hands(client: ssl.SSLContext, authority: Authority, folder: Path, host: str = HOST) -> None:
    """Client and server in memory. Raises ssl.SSLCertVerificationError."""
    served = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    served.load_cert_chain(*authority.issue("server", hosts=[host]).write(folder, "server"))
    there, back = ssl.MemoryBIO(), ssl.MemoryBIO()
    ends = [client.wrap_bio(back, there, server_hostname=HOST), served.wrap_bio(there, back, server_side=True)]
    for _ in range(4):
        for end in list(ends):
            try:
                end.do_handshake()
                ends.remove(end)
            except ssl.SSLWantReadError:
                pass
    assert not ends


def test_certificates_without_an_identifier_of_the_key_are_taken(authority: Authority, tmp_path: Path) -> None:
    with pytest.raises(ssl.SSLCertVerificationError, match=r"Key Identifier|key usage"):
        shake_hands(strict(authority), authority, tmp_path)
    shake_hands(as_kubectl_does(strict(authority)), authority, tmp_path)


def test_another_authority_and_another_host_are_refused(authority: Authority, tmp_path: Path) -> None:
    client = as_kubectl_does(strict(authority))
    with pytest.raises(ssl.SSLCertVerificationError, match="verify failed"):
        shake_hands(client, Authority.create("another's"), tmp_path)
    with pytest.raises(ssl.SSLCertVerificationError, match="Hostname mismatch"):
        shake_hands(client, authority, tmp_path, host="other.example")
