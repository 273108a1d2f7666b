"""One Ray and one S3 for all tests of bulk inference, and a few small images."""

import os

import numpy as np
import pytest

from tests.conftest import write_dicom


@pytest.fixture(scope="session")
def s3():
    """Start an S3 on loopback, and return a file system with the empty bucket `ward`."""
    server_module = pytest.importorskip("moto.server")
    s3fs = pytest.importorskip("s3fs")
    server = server_module.ThreadedMotoServer(port=0)
    server.start()
    host, port = server.get_host_and_port()
    settings = {
        "AWS_ENDPOINT_URL": f"http://{host}:{port}",
        "AWS_ACCESS_KEY_ID": "testing",
        "AWS_SECRET_ACCESS_KEY": "testing",
        "AWS_DEFAULT_REGION": "us-east-1",
    }
    before = dict(os.environ)
    os.environ.update(settings)  # workers inherit it
    system = s3fs.S3FileSystem(use_listings_cache=False)
    system.mkdir("ward")
    yield system
    server.stop()
    os.environ.clear()
    os.environ.update(before)


@pytest.fixture(scope="session")
def ray(s3):
    """Start the Ray of the tests, which knows the S3."""
    pytest.importorskip("ray")
    from pneumoseg.cluster import connect

    with connect(cpus=2) as module:
        yield module


@pytest.fixture
def images(tmp_path):
    """Return a folder of 37 small images: three chunks of batches of two; one is broken, two have the same id."""
    generator = np.random.default_rng(5)
    for number in range(36):
        write_dicom(tmp_path / f"in/a{number % 3}/i{number:02d}.dcm", generator.integers(0, 255, (48, 40), np.uint8))
    write_dicom(tmp_path / "in/a-b/i00.dcm", generator.integers(0, 255, (40, 40), np.uint8))
    broken = tmp_path / "in/a1/i07.dcm"
    broken.write_bytes(broken.read_bytes()[:-100])
    (tmp_path / "in/notes.txt").write_text("hello")
    return tmp_path / "in"
