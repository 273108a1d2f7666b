"""TLS contexts for both sides of a connection, each of which must show a certificate."""

import os
import ssl
from typing import NoReturn

_Path = str | os.PathLike[str]


def server_context(cert: _Path, key: _Path, ca: _Path) -> ssl.SSLContext:
    """Return the context of a receiver, which accepts only clients with a certificate of one authority.

    Args:
        cert: PEM file with the receiver's certificate, and those that lead to its authority.
        key: PEM file with the private key of the certificate, not encrypted.
        ca: PEM file with the certificate of the authority that signs the clients' certificates.

    Returns:
        A context for TLS 1.2 or later.

    Raises:
        OSError: If a file cannot be read.
        ValueError: If a file does not hold its certificates or key, or the key is encrypted.

    Example:
        >>> server_context("server.pem", "server.key", "ca.pem").verify_mode  # doctest: +SKIP
        <VerifyMode.CERT_REQUIRED: 2>
    """
    return _load(ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER), cert, key, ca)


def client_context(cert: _Path, key: _Path, ca: _Path) -> ssl.SSLContext:
    """Return the context of a sender, which accepts only a receiver with a certificate of one authority for its name.

    Args:
        cert: PEM file with the sender's certificate, and those that lead to its authority.
        key: PEM file with the private key of the certificate, not encrypted.
        ca: PEM file with the certificate of the authority that signs the receiver's certificate.

    Returns:
        A context for TLS 1.2 or later that checks the receiver's name or address.

    Raises:
        OSError: If a file cannot be read.
        ValueError: If a file does not hold its certificates or key, or the key is encrypted.

    Example:
        >>> client_context("client.pem", "client.key", "ca.pem").check_hostname  # doctest: +SKIP
        True
    """
    return _load(ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT), cert, key, ca)


def _load(context: ssl.SSLContext, cert: _Path, key: _Path, ca: _Path) -> ssl.SSLContext:
    for path in (cert, key, ca):
        # The errors of ssl do not name the file.
        open(path, "rb").close()
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.verify_mode = ssl.CERT_REQUIRED
    try:
        context.load_verify_locations(ca)
    except ssl.SSLError:
        raise ValueError(f"{os.fsdecode(ca)} holds no certificate: give a PEM file") from None
    try:
        context.load_cert_chain(cert, key, password=_refuse_password)
    except ssl.SSLError:
        raise ValueError(
            f"{os.fsdecode(cert)} holds no certificate, or {os.fsdecode(key)} is not its key: give PEM files that match"
        ) from None
    return context


def _refuse_password() -> NoReturn:
    """Stop OpenSSL from asking for a password at the terminal."""
    raise ValueError("the private key is encrypted: give a file with the key in the clear that only its user can read")
