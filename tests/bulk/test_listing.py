"""Images behind URLs, listed by the rules of local folders."""

import threading

import fsspec
import numpy as np
import pytest

from pneumoseg.bulk.listing import list_images
from pneumoseg.bulk.packing import local_pipeline
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


def test_folders_of_an_object_store_are_listed_many_at_a_time(memory, monkeypatch):
    content = memory.cat_file("/ward/b/i.dcm")
    memory.store.clear()
    memory.pipe({f"/w/{number}/i.dcm": content for number in range(12)})
    listed, together = memory.ls, threading.Barrier(4, timeout=10)

    def ls(_, path, **__):
        if path != "/w":
            together.wait()  # breaks if fewer are listed at a time
        if path == "/w/7":
            raise PermissionError("Access Denied")
        return listed(path, detail=True)

    monkeypatch.setattr(type(memory), "async_impl", True)
    monkeypatch.setattr(type(memory), "ls", ls)
    listing = list_images(["memory://w"])
    assert set(paths(listing)) == {f"memory:///w/{number}/i.dcm" for number in range(12) if number != 7}
    assert (listing.skipped, listing.unlisted) == (1, True)


@pytest.mark.parametrize(
    "inputs", [["memory://ward", "memory://ward/b", "memory://ward"], ["memory://ward/b/", "memory://ward"]]
)
def test_overlapping_inputs_are_listed_and_counted_once(memory, monkeypatch, inputs):
    memory.pipe_file("/ward/b/notes.txt", b"hello")
    once = list_images(["memory://ward"])
    listed, seen = memory.ls, []
    monkeypatch.setattr(type(memory), "ls", lambda _, path, **__: seen.append(path) or listed(path, detail=True))
    several = list_images(inputs)
    assert several.images.equals(once.images)
    assert several.skipped == once.skipped == 7
    assert sorted(seen) == sorted(set(seen))


def test_a_glob_of_all_reads_no_heads_and_skips_no_named_file(memory, monkeypatch):
    monkeypatch.setattr(type(memory), "cat_ranges", lambda *_, **__: pytest.fail("read a head"))
    listing = list_images(["memory://ward/b/**", "memory://ward/notes.txt", "memory://ward/b"])
    assert paths(listing) == ["memory:///ward/b/i.dcm", "memory:///ward/notes.txt"]
    assert listing.skipped == 0


def test_a_hidden_folder_that_is_named_is_searched(memory):
    listing = list_images(["memory://ward", "memory://ward/.hidden"])
    assert "memory:///ward/.hidden/i.dcm" in paths(listing)
    assert listing.skipped == 5


def test_urls_of_local_folders_are_local(memory, tmp_path):
    assert paths(list_images([f"file://{tmp_path}/ward"])) == paths(list_images([str(tmp_path / "ward")]))
    folder = ResultFolder(f"file://{tmp_path}/new/out")
    folder.write("a", b"content")
    assert folder.place == f"{tmp_path}/new/out"
    assert folder.names() == ["a"]
    (tmp_path / "pipeline.json").touch()
    with local_pipeline(f"file://{tmp_path}") as place:
        assert place == tmp_path


def test_odd_names_on_s3_are_listed_or_told(s3, memory, caplog):
    content = memory.cat_file("/ward/b/i.dcm")
    s3.mkdir("odd")
    s3.pipe(
        {f"odd/{name}": content for name in ("in//x.dcm", "in/y.dcm", "both", "both/z.dcm", "one.dcm", "mark/m.dcm")}
    )
    s3.pipe_file("odd/mark/", b"")
    listing = list_images(["s3://odd/in"])
    assert (paths(listing), listing.skipped, listing.unlisted) == (["s3://odd/in/y.dcm"], 1, True)
    assert "IMAGES MAY BE MISSING: 1 folders cannot be listed, the first: s3://odd/in//" in caplog.text
    both = ["s3://odd/both", "s3://odd/both/z.dcm"]
    assert paths(list_images(["s3://odd/both"])) == paths(list_images(["s3://odd/bo*"])) == both
    assert not list_images(["s3://odd/both", "s3://odd/one.dcm", "s3://odd/mark"]).unlisted


def test_an_image_on_s3_takes_one_request(s3, memory, monkeypatch):
    s3.mkdir("few")
    s3.pipe({"few/i.dcm": memory.cat_file("/ward/b/i.dcm"), "few/empty.png": b"", "few/large.png": b"x" * 101})
    read_image("s3://few/i.dcm")  # opens the connection
    asked, client = [], pytest.importorskip("aiobotocore.client").AioBaseClient
    request = client._make_api_call
    monkeypatch.setattr(
        client, "_make_api_call", lambda self, name, options: asked.append(name) or request(self, name, options)
    )
    assert (read_image("s3://few/i.dcm") == 90).all()
    assert asked == ["GetObject"]
    for name, reason in (("empty.png", "is empty"), ("absent.png", "No such file or object")):
        with pytest.raises(ImageError, match=reason):
            read_image(f"s3://few/{name}")
    monkeypatch.setattr("pneumoseg.dicom.elements.MAX_FILE_BYTES", 100)
    with pytest.raises(ImageError, match="is 101 bytes long, expected at most 100"):
        read_image("s3://few/large.png")
