"""Files behind URLs, such as `s3://bucket/chest.dcm`, read and written by fsspec."""

import re
import secrets
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fsspec import AbstractFileSystem

_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+:/")
_FILE_PROTOCOL = re.compile(r"(?:file|local):(?://(?=.)|(?=/))")
CONNECTIONS = 32
"""Number of requests to an object store that this package makes at the same time."""


def is_remote(place: object) -> bool:
    """Return whether a file or folder is named by a URL.

    Example:
        >>> is_remote("s3://bucket/ward"), is_remote("/data/ward")
        (True, False)
    """
    return bool(_URL.match(str(place)))


def without_file_protocol(place: str) -> str:
    """Return the path of a `file://` URL, and any other place as it is.

    Example:
        >>> without_file_protocol("file:///data/ward"), without_file_protocol("s3://bucket/ward")
        ('/data/ward', 's3://bucket/ward')
    """
    return place[match.end() :] if (match := _FILE_PROTOCOL.match(place)) else place


def open_file_system(url: str) -> "tuple[AbstractFileSystem, str]":
    """Return the file system of a URL, and the path on it.

    Folders are listed afresh each time, so that what others write is seen.

    Args:
        url: URL of a file or a folder, with any protocol that fsspec knows.

    Raises:
        OSError: If the file system refuses, for example because of wrong credentials.
        ValueError: If fsspec, or its package for the protocol, is not installed, or no such protocol exists.

    Example:
        >>> system, path = open_file_system("memory://ward/chest.dcm")
        >>> path
        '/ward/chest.dcm'
    """
    protocol = url.partition(":")[0]
    with errors_of(url):
        try:
            from fsspec.core import url_to_fs

            system, path = url_to_fs(url, use_listings_cache=False, **_connections(protocol))
        except ImportError as error:
            raise ValueError(
                f"{url}: no package for {protocol} is installed ({error}): pip install 'pneumoseg[ray]' and s3fs for "
                "s3, gcsfs for gs"
            ) from error
    return system, str(path)


def is_s3(system: "AbstractFileSystem") -> bool:
    """Return whether a file system is that of S3.

    Example:
        >>> is_s3(open_file_system("memory://ward")[0])
        False
    """
    protocols = system.protocol
    return "s3" in ((protocols,) if isinstance(protocols, str) else protocols)


@contextmanager
def errors_of(url: str) -> Iterator[None]:
    """Turn the errors that each protocol has of its own, for missing credentials for example, into `OSError`.

    Args:
        url: URL of the file or folder, which the error names.

    Raises:
        OSError: In place of an error of another type.

    Example:
        >>> with errors_of("s3://hospital/2023"):  # doctest: +SKIP
        ...     system.ls("hospital/2023")  # doctest: +SKIP
    """
    try:
        yield
    except (OSError, ValueError):
        raise
    except Exception as error:
        raise OSError(f"{url}: {type(error).__name__} ({error}): check its name and your credentials") from error


def read_remote(url: str, most_bytes: int) -> bytes:
    """Return the content of a remote file.

    Args:
        url: URL of the file.
        most_bytes: Largest content that is read.

    Raises:
        OSError: If the file cannot be read, is larger, or was cut short on its way.
    """
    try:
        system, path = open_file_system(url)
        if is_s3(system):
            # One request instead of two. It fails for an empty object, which has no range of bytes.
            with suppress(Exception):
                content: bytes = system.cat_file(path, start=0, end=most_bytes + 1)
                if len(content) <= most_bytes:
                    return content
        with system.open(path, "rb", block_size=most_bytes, cache_type="none") as file:
            content = file.read(most_bytes + 1)
            expected = len(content) if file.size is None else file.size  # a web server need not tell
    except OSError as error:
        raise OSError(_cause(error)) from error
    except Exception as error:  # each protocol has errors of its own, for a connection that breaks for example
        raise OSError(f"{type(error).__name__}: {error}") from error
    if max(expected, len(content)) > most_bytes:
        raise OSError(f"is {expected} bytes long, expected at most {most_bytes}")
    if len(content) != expected:
        raise OSError(f"only {len(content)} of its {expected} bytes arrived")
    return content


def write_remote(url: str, content: bytes) -> None:
    """Write a remote file, which appears whole or not at all, and make its folder.

    An object store does so by itself. Other file systems write under another name, which begins with a dot, and rename.

    Args:
        url: URL of the file.
        content: Content of the file.

    Raises:
        OSError: If it cannot be written.
    """
    from fsspec import AbstractFileSystem

    system, path = open_file_system(url)
    with errors_of(url):
        if system.async_impl or type(system).mv is AbstractFileSystem.mv:  # an object store, which cannot rename
            system.pipe_file(path, content)
            return
        folder, _, name = path.rpartition("/")
        temporary = f"{folder}/.{name}.{secrets.token_hex(4)}"
        system.makedirs(folder, exist_ok=True)
        system.pipe_file(temporary, content)
        with suppress(FileNotFoundError):  # some file systems do not rename to a name that is taken
            system.rm_file(path)
        system.mv(temporary, path)


def join_url(url: str, name: str) -> str:
    """Return the URL of a file in a remote folder.

    Example:
        >>> join_url("s3://bucket/results/", "run.json")
        's3://bucket/results/run.json'
    """
    return f"{url.rstrip('/')}/{name}"


def _connections(protocol: str) -> dict[str, Any]:
    """Return options that let a file system keep `CONNECTIONS` open; only that of S3 keeps fewer by itself."""
    if protocol not in ("s3", "s3a"):
        return {}
    from fsspec.config import conf

    chosen = {**conf.get("s3", {}), **conf.get(protocol, {})}.get("config_kwargs", {})  # s3a has the settings of s3
    return {"config_kwargs": {"max_pool_connections": CONNECTIONS, **chosen}}


def _cause(error: OSError) -> str:
    if isinstance(error, FileNotFoundError):
        return "No such file or object"
    return " ".join((error.strerror or str(error) or type(error).__name__).split())
