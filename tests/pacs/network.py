"""Files in every transfer syntax, receivers and senders on this computer, and certificates, for tests."""

import contextlib
import io
import os
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import jpeg_ls
import numpy as np
import openjpeg
import pydicom
import pytest
from pydicom import uid
from pydicom.encaps import encapsulate
from pynetdicom import AE, build_context, evt
from pynetdicom.association import Association
from pynetdicom.transport import ThreadedAssociationServer

from pneumoseg.dicom.codecs import ENCAPSULATED_UNCOMPRESSED
from pneumoseg.pacs.receiver import Receiver
from tests.dicom.builders import GRADIENT, dataset, encoded, jpeg, save

NAMED = {
    uid.ImplicitVRLittleEndian: "implicit",
    uid.ExplicitVRLittleEndian: "explicit",
    uid.ExplicitVRBigEndian: "big endian",
    uid.DeflatedExplicitVRLittleEndian: "deflated",
    uid.RLELossless: "RLE",
    uid.JPEGLSLossless: "JPEG-LS",
    uid.JPEG2000Lossless: "JPEG 2000",
    uid.JPEGLossless: "lossless",
    uid.JPEGLosslessSV1: "lossless SV1",
}
LOSSY = {uid.JPEGBaseline8Bit, uid.JPEGExtended12Bit}
PATIENT = "DOE^JANE"
INSTANCE = "1.2.826.0.1.3680043.8.498.4711"

SEGMENTATION = uid.SegmentationStorage
PICTURE = uid.SecondaryCaptureImageStorage


def image_file(path: Path, syntax: str = uid.ExplicitVRLittleEndian, instance: str = INSTANCE, **attributes) -> Path:
    """Write a picture of `GRADIENT` in a transfer syntax."""
    attributes = {"SOPInstanceUID": instance, "PatientName": PATIENT, "PatientID": "4711-0815", **attributes}
    if syntax in NAMED:
        return encoded(GRADIENT, NAMED[syntax], path, **attributes)
    frames: dict[str, Callable[[], bytes]] = {
        uid.JPEGBaseline8Bit: lambda: jpeg(GRADIENT, 95),
        uid.JPEGExtended12Bit: lambda: jpeg(GRADIENT, 95),
        uid.JPEGLSNearLossless: lambda: bytes(jpeg_ls.encode_array(GRADIENT)),
        uid.JPEG2000: lambda: bytes(openjpeg.encode(GRADIENT, bits_stored=8, photometric_interpretation=2)),
        ENCAPSULATED_UNCOMPRESSED: GRADIENT.tobytes,
    }
    image = dataset(GRADIENT, **attributes)
    image.PixelData = encapsulate([frames[syntax]()])
    image["PixelData"].is_undefined_length = True
    return save(image, path, syntax)


def large_file(path: Path, megabytes: float, instance: str = INSTANCE, **attributes) -> Path:
    """Write an uncompressed picture of a size."""
    pixels = np.zeros((1024, round(megabytes * 1024)), np.uint8)
    return save(dataset(pixels, SOPInstanceUID=instance, **attributes), path)


def data_set(path: Path) -> bytes:
    """Return the bytes after the file meta information."""
    with open(path, "rb") as file:
        pydicom.filereader.read_preamble(file, False)
        pydicom.filereader._read_file_meta_info(file)
        return file.read()


def wait_until(condition: Callable[[], object], seconds: float = 60.0) -> None:
    """Wait until a condition holds, or fail."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "the condition does not come true"
        threading.Event().wait(0.005)


@contextlib.contextmanager
def running(receiver: Receiver) -> Iterator[Receiver]:
    """Start a receiver, and stop it afterwards."""
    receiver.start()
    try:
        yield receiver
    finally:
        receiver.stop()


@contextlib.contextmanager
def associated(port: int, aet: str = "SENDER", kind: str = PICTURE, **options) -> Iterator[Association]:
    """Yield an association of a plain sender."""
    contexts = [build_context(kind, [uid.ExplicitVRLittleEndian])]
    association = AE(aet).associate("127.0.0.1", port, contexts, options.pop("called", "PNEUMOSEG"), **options)
    try:
        yield association
    finally:
        association.abort()


class Archive:
    """Receiver that keeps data sets in memory and answers the statuses of a function, or 0x0000.

    Attributes:
        refusal: Result of the presentation contexts that it does not accept, instead of 3 or 4.
    """

    refusal = 0

    def __init__(self, *kinds: str, tls=None, answer: Callable[[evt.Event], int] | None = None) -> None:
        self.received: list[tuple[str, str, bytes]] = []
        self._answer = answer
        self._entity = AE("ARCHIVE")
        self._entity.require_called_aet = True
        for kind in kinds:
            self._entity.add_supported_context(kind, list(NAMED))
        self._tls = tls

    def __enter__(self) -> "Archive":
        handlers = [(evt.EVT_C_STORE, self._store), (evt.EVT_ACSE_SENT, self._refuse)]
        self._server = self._entity.make_server(
            ("127.0.0.1", 0), evt_handlers=handlers, ssl_context=self._tls, server_class=ThreadedAssociationServer
        )
        self._entity._servers.append(self._server)
        threading.Thread(target=self._server.serve_forever, args=[0.01], daemon=True).start()
        self.port = self._server.server_address[1]
        return self

    def __exit__(self, *error) -> None:
        # pynetdicom's thread fails if it is told to abort an association that is about to end.
        for association in self._entity.active_associations:
            association.join(5)
        self._entity.shutdown()

    def _refuse(self, event: evt.Event) -> None:
        for context in getattr(event.primitive, "presentation_context_definition_results_list", []):
            if self.refusal and context.result:
                context.result = self.refusal

    def _store(self, event: evt.Event) -> int:
        data = event.request.DataSet
        data = data.getvalue() if isinstance(data, io.BytesIO) else b""
        self.received.append((event.request.AffectedSOPInstanceUID, event.context.transfer_syntax, data))
        return self._answer(event) if self._answer else 0x0000


def find_tool(name: str) -> str | None:
    """Return the path of a tool that is not Python's: pynetdicom installs commands with the names of DCMTK's."""
    own = Path(sys.executable).parent
    folders = [folder for folder in os.get_exec_path() if Path(folder) != own]
    return shutil.which(name, path=os.pathsep.join(folders))


def needs(name: str) -> pytest.MarkDecorator:
    """Skip a test where a tool is not installed."""
    return pytest.mark.skipif(not find_tool(name), reason=f"needs {name}")


class Certificates:
    """An authority and certificates of it, in a folder, made by openssl."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir()
        self.ca = folder / "ca.pem"
        self._openssl("req", "-x509", "-subj", "/CN=authority", "-keyout", "ca.key", "-out", "ca.pem")

    def issue(self, name: str, alternative: str = "DNS:localhost,IP:127.0.0.1") -> tuple[Path, Path, Path]:
        """Return certificate, key and authority for a name."""
        self._openssl(
            "req", "-x509", "-CA", "ca.pem", "-CAkey", "ca.key", "-subj", f"/CN={name}", "-keyout", f"{name}.key",
            "-out", f"{name}.pem", "-addext", f"subjectAltName={alternative}", "-addext", "basicConstraints=CA:false",
        )  # fmt: skip
        return self.folder / f"{name}.pem", self.folder / f"{name}.key", self.ca

    def _openssl(self, *arguments: str) -> None:
        key = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "2")
        command = ["openssl", *arguments, *key]
        subprocess.run(command, cwd=self.folder, check=True, capture_output=True, timeout=60)
