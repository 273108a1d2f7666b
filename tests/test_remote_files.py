"""Files behind URLs: their protocols, their errors, and how few requests they take."""

import fsspec
import pytest
from fsspec.implementations.local import LocalFileSystem
from fsspec.implementations.memory import MemoryFileSystem

from pneumoseg.image_errors import ImageError
from pneumoseg.images import read_image
from pneumoseg.inference import Pipeline
from pneumoseg.remote_files import CONNECTIONS, open_file_system, without_file_protocol, write_remote
from tests.networks import identity


class LoginError(Exception):
    """An error as that of paramiko: no `OSError`."""


class Refusing(MemoryFileSystem):
    """A file system that cannot log in."""

    protocol = "refusing"

    def __init__(self, *_, **__):
        raise LoginError("Authentication failed.")


class Disk(LocalFileSystem):
    """A file system that writes files bit by bit and can rename them, as that of SFTP."""

    protocol = "disk"
    full = False

    def mv(self, path1, path2, **_):
        """Rename a file, but not to a name that is taken."""
        if self.exists(path2):
            raise FileExistsError(path2)
        super().mv(path1, path2)

    def pipe_file(self, path, value, **_):
        """Write a file; one half of it on a disk that is full."""
        with open(self._strip_protocol(path), "wb") as file:
            file.write(value[: len(value) // 2])
            if self.full:
                raise OSError(28, "No space left on device")
            file.write(value[len(value) // 2 :])


@pytest.fixture(autouse=True)
def protocols():
    for kind in (Refusing, Disk):
        fsspec.register_implementation(kind.protocol, kind, clobber=True)


@pytest.mark.parametrize(
    ("place", "path"),
    [
        ("file:///data/ward", "/data/ward"),
        ("file:/data/ward", "/data/ward"),
        ("local:///data/a b%20", "/data/a b%20"),
        ("file://ward/in", "ward/in"),
        ("s3://bucket/file:///ward", "s3://bucket/file:///ward"),
        ("/data/ward", "/data/ward"),
        ("file:ward", "file:ward"),
    ],
)
def test_urls_of_local_files_are_paths(place, path):
    assert without_file_protocol(place) == path


def test_a_login_that_fails_is_told_with_the_url():
    with pytest.raises(OSError, match=r"^refusing://host/x: LoginError \(Authentication failed\.\): check"):
        open_file_system("refusing://host/x")
    with pytest.raises(ImageError, match="Authentication failed"):
        read_image("refusing://host/x")


def test_a_file_appears_whole_or_not_at_all(tmp_path, monkeypatch):
    folder = tmp_path / "new/out"
    write_remote(f"disk://{folder}/a", b"first")
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == {"a": b"first"}
    write_remote(f"disk://{folder}/a", b"again")
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == {"a": b"again"}
    monkeypatch.setattr(Disk, "full", True)
    with pytest.raises(OSError, match="No space left"):
        write_remote(f"disk://{folder}/b", b"second")
    assert not (folder / "b").exists()
    assert all(path.name.startswith(".b.") for path in folder.iterdir() if path.name != "a")


def test_many_connections_to_s3_unless_the_user_chose(monkeypatch):
    pytest.importorskip("s3fs")
    assert open_file_system("s3://ward")[0].config_kwargs == {"max_pool_connections": CONNECTIONS}
    monkeypatch.setitem(fsspec.config.conf, "s3", {"config_kwargs": {"max_pool_connections": 5, "read_timeout": 9}})
    for url in ("s3://ward", "s3a://ward"):
        assert open_file_system(url)[0].config_kwargs == {"max_pool_connections": 5, "read_timeout": 9}


@pytest.mark.parametrize(("source", "readers"), [("memory://ward/i.png", CONNECTIONS), ("/ward/i.png", 3)])
def test_files_behind_urls_have_more_readers_than_cores(source, readers, monkeypatch):
    started = []
    monkeypatch.setattr("os.cpu_count", lambda: 3)
    monkeypatch.setattr(
        "pneumoseg.inference.pipeline.run_stages",
        lambda sources, *_, **options: started.append((list(sources), options["readers"])) or iter(()),
    )
    list(Pipeline([], [identity()]).predict_many([source, "/other.png"]))
    assert started == [([source, "/other.png"], readers)]
