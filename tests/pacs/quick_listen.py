"""Supervisor of a service with a quick pipeline, as `listen` runs it: starts it again whenever it is killed.

Arguments: the folder of the queue, the port of the service, the port of the archive. Prints the id of each process, and
"listening" once it receives images. The processes are forks, so that they start at once.
"""

import os
import sys
import tempfile
import time
from pathlib import Path

from pneumoseg.cli.listen import serve
from pneumoseg.dicom_objects import KINDS
from pneumoseg.pacs.event_log import EventLog
from pneumoseg.pacs.receiver import Receiver
from pneumoseg.pacs.sender import StoreSender
from pneumoseg.pacs.service import Service
from pneumoseg.pacs.spool import Spool
from tests.pacs.hospital import QuickPipeline, write_radiograph


def main(folder, port, archive_port):
    with tempfile.TemporaryDirectory() as scratch:  # the first image imports libraries, which each process would repeat
        image = write_radiograph(Path(scratch) / "image")
        QuickPipeline().predict(image).to_dicom(KINDS, strict=False)
    while True:
        process = os.fork()
        if process == 0:
            _serve(Spool(folder), int(port), int(archive_port))
            os._exit(0)
        status = os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])
        print("ended", status, flush=True)
        if status == 0:
            return


def _serve(spool, port, archive_port):
    print("process", os.getpid(), flush=True)
    log = EventLog()
    log.install()
    receiver = Receiver(spool, ["SCANNER"], port=port, received=lambda key: service.notice(key))
    pipeline = QuickPipeline(lambda path: time.sleep(0.02))
    service = Service(spool, pipeline, receiver, StoreSender("ARCHIVE", "127.0.0.1", archive_port))
    serve(service, log, lambda: print("listening", flush=True))


if __name__ == "__main__":
    main(*sys.argv[1:])
