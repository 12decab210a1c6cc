"""Which certificates an API server may show."""

from __future__ import annotations

import ssl


def as_kubectl_does(context: ssl.SSLContext) -> ssl.SSLContext:
    """Take the certificates that kubectl takes: signed by the authority that is known, in time, for this host.

    From Python 3.13 on a default context also asks for what RFC 5280 wants written into them, such as an authority key
    identifier. Go asks for none of it, and the certificates of many a cluster lack some.
    """
    context.verify_flags &= ~ssl.VERIFY_X509_STRICT
    return context
