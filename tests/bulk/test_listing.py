"""Images behind URLs, listed by the rules of local folders."""

import fsspec
import numpy as np
import pytest

from pneumoseg.bulk.listing import list_images
from pneumoseg.bulk.shards import ResultFolder
from pneumoseg.data.files import JOURNAL, find_images
from pneumoseg.image_errors import ImageError
from pneumoseg.images import read_image
from tests.conftest import write_dicom


@pytest.fixture
def memory(tmp_path):
    """Return a file system in memory, and the same files on the disk."""
    image = np.full((8, 8), 90, np.uint8)
    for name in ("ward/b/i.dcm", "ward/a-b/i", "ward/a/DICOMDIR", "ward/.hidden/i.dcm", "ward/results/masks/i.png"):
        write_dicom(tmp_path / name, image)
    write_dicom(tmp_path / "ward/report.dcm", image, SOPClassUID="1.2.840.10008.5.1.4.1.1.88.11")
    for name, content in (("notes.txt", b"hello"), ("empty.png", b""), ("._i.dcm", b"x"), (f"results/{JOURNAL}", b"")):
        (tmp_path / "ward" / name).write_bytes(content)
    system = fsspec.filesystem("memory")
    system.store.clear()
    system.put(f"{tmp_path / 'ward'}/", "/ward/", recursive=True)
    yield system
    system.store.clear()


def paths(listing):
    return listing.images["path"].to_pylist()


def test_remote_folders_are_searched_like_local_ones(memory, tmp_path):
    local = find_images(tmp_path / "ward")
    remote = list_images(["memory://ward"])
    assert paths(remote) == [f"memory:///{path.relative_to(tmp_path)}" for path in local.paths]
    assert [path.rpartition("ward/")[2] for path in paths(remote)] == ["a-b/i", "b/i.dcm", "empty.png"]
    assert remote.skipped == len(local.skipped) == 6
    assert paths(list_images([str(tmp_path / "ward")])) == [str(path) for path in local.paths]


def test_files_and_globs_are_not_judged_and_no_file_is_listed_twice(memory):
    assert paths(list_images(["memory://ward/notes.txt"])) == ["memory:///ward/notes.txt"]
    assert paths(list_images(["memory://ward/**/i.dcm", "memory://ward/b"])) == ["memory:///ward/b/i.dcm"]
    for absent in ("memory://ward/absent", "memory://ward/x*"):
        with pytest.raises(FileNotFoundError, match=r"no such file or folder|cannot be listed"):
            list_images([absent])


def test_a_changed_file_has_another_state(memory, tmp_path):
    before = list_images(["memory://ward/b"]).images["state"].to_pylist()
    assert list_images(["memory://ward/b"]).images["state"].to_pylist() == before
    memory.pipe_file("/ward/b/i.dcm", b"other")
    assert list_images(["memory://ward/b"]).images["state"].to_pylist() != before


def test_known_images_and_own_files_are_not_looked_at(memory, monkeypatch):
    monkeypatch.setattr(type(memory), "cat_ranges", lambda *_, **__: pytest.fail("read a head"))
    listing = list_images(["memory://ward/b"], known={"memory:///ward/b/i.dcm"})
    assert paths(listing) == ["memory:///ward/b/i.dcm"]
    monkeypatch.undo()
    assert list_images(["memory://ward"], own="memory:///ward/results").skipped == 5


def test_a_file_and_a_folder_may_have_one_name(memory, monkeypatch):
    first, second = memory.cat_file("/ward/b/i.dcm"), memory.cat_file("/ward/a-b/i")
    memory.store.clear()
    memory.pipe({"/w/x/1.dcm": first, "/w/y/z/2.dcm": second, "/w/x2": first})
    listed, read = memory.ls, []
    twin = {"name": "/w/x", "size": len(first), "type": "file"}  # as on an object store
    monkeypatch.setattr(
        type(memory), "ls", lambda _, path, **__: [*listed(path, detail=True), *([twin] if path == "/w" else [])]
    )

    def cat_ranges(_, paths, *__, **___):
        read.append(sorted(paths))
        return [first] * len(paths)

    monkeypatch.setattr(type(memory), "cat_ranges", cat_ranges)
    assert paths(list_images(["memory://w"])) == [f"memory:///w/{name}" for name in ("x", "x/1.dcm", "x2", "y/z/2.dcm")]
    assert read == [["/w/x", "/w/x/1.dcm", "/w/x2", "/w/y/z/2.dcm"]]  # all folders with one request


def test_errors_of_a_protocol_are_told(memory, monkeypatch):
    class NoCredentialsError(Exception):
        """An error as those of botocore: no `OSError`."""

    def refuse(*_, **__):
        raise NoCredentialsError("Unable to locate credentials")

    monkeypatch.setattr(type(memory), "ls", refuse)
    with pytest.raises(FileNotFoundError, match="no DICOM"):
        list_images(["memory://ward"])
    listing = list_images(["memory://ward", "memory://ward/b/i.dcm"])
    assert (paths(listing), listing.unlisted) == (["memory:///ward/b/i.dcm"], True)
    with pytest.raises(OSError, match=r"memory://out: NoCredentialsError \(Unable to locate credentials\): check"):
        ResultFolder("memory://out").names()
    monkeypatch.setattr(type(memory), "info", refuse)
    with pytest.raises(FileNotFoundError, match=r"memory://ward: .*NoCredentialsError"):
        list_images(["memory://ward"])


def test_a_remote_image_is_read_and_its_faults_are_image_errors(memory, monkeypatch):
    assert (read_image("memory://ward/b/i.dcm") == 90).all()
    with pytest.raises(ImageError, match=r"memory://ward/absent: cannot be opened \(No such file or object\)"):
        read_image("memory://ward/absent")
    monkeypatch.setattr("pneumoseg.dicom.elements.MAX_FILE_BYTES", 100)
    with pytest.raises(ImageError, match="expected at most 100"):
        read_image("memory://ward/b/i.dcm")
    with pytest.raises(ImageError, match="oops"):
        read_image("oops://ward/i.dcm")


def test_a_download_that_is_cut_short_is_told(memory, monkeypatch):
    content = memory.cat_file("/ward/b/i.dcm")

    class Cut:
        size = len(content)

        def __enter__(self):
            return self

        def __exit__(self, *_):
            return None

        def read(self, _):
            return content[:-10]

    monkeypatch.setattr(type(memory), "open", lambda *_, **__: Cut())
    with pytest.raises(ImageError, match=f"only {len(content) - 10} of its {len(content)} bytes arrived"):
        read_image("memory://ward/b/i.dcm")
    monkeypatch.setattr(
        type(memory), "open", lambda *_, **__: (_ for _ in ()).throw(PermissionError(13, "Access Denied"))
    )
    with pytest.raises(ImageError, match=r"cannot be opened \(Access Denied\)"):
        read_image("memory://ward/b/i.dcm")
