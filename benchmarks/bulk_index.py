"""Seconds and memory that bulk inference needs for its images: names, work, the index of finished images, and Ray.

Paths are made up, and nothing is read or predicted. A real listing comes on top: one small request or read per file.
Seconds are those of the wall and of the driver's processor, which counts all threads: on a busy machine only the latter
mean something. Workers on Ray do nothing, so that only the handling of the pieces of work remains.

    python benchmarks/bulk_index.py --images 1000000
"""

import argparse
import contextlib
import resource
import tempfile
import time

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pneumoseg.bulk.crew import Crew
from pneumoseg.bulk.listing import Listing
from pneumoseg.bulk.run import _Run
from pneumoseg.bulk.shards import SHARD, ResultFolder, read_results
from pneumoseg.cluster import connect


def main():
    """Print a table with a row per step."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, default=1_000_000)
    count = parser.parse_args().images
    print(f"| step, {count} images | seconds | of the processor | peak memory of the process, MB |")
    print("| --- | --- | --- | --- |")
    with tempfile.TemporaryDirectory() as temporary:
        folder = ResultFolder(temporary)
        paths = pa.array((f"s3://hospital/2023/{n % 997:03d}/1.2.840.{n:09d}.dcm" for n in range(count)), pa.string())
        images = pa.table({"path": paths.cast(pa.large_string()), "state": np.arange(count)})
        listing = Listing(images, [], 0, False)
        step("paths alone", lambda: None)
        pieces = step("a new run: names and work", lambda: work_of_new_run(folder, listing))
        step(f"{-(-count // 4096)} shards written", lambda: write(folder, paths))
        folder.write("run.json", b"{}")
        done = step("index of the shards", lambda: folder.rows(["path", "image_id", "error", "state"]))
        run = step("a finished run: comparison", lambda: _Run(folder, listing, done, 32))
        assert run.is_complete
        step("count and check at the end", run.sum_up)
        assert len(step("read_results", lambda: read_results(temporary))) == count
    with connect(cpus=2) as ray, contextlib.ExitStack() as stack:
        work = Crew(ray, Mirror, (), 2, {"num_cpus": 1}).work(pieces, ahead=1)
        results = step(f"Ray: {len(pieces)} pieces handed over", lambda: stack.enter_context(work))
        assert step("Ray: all pieces through 2 workers", lambda: sum(map(len, results))) == count


def work_of_new_run(folder, listing):
    """Return the pieces of a run of which nothing is done, for 8 workers."""
    schema = pa.schema([SHARD.field(name) for name in ("path", "image_id", "error", "state")])
    run = _Run(folder, listing, schema.empty_table(), 32)
    pieces = run._pieces(run._piece_size(8))
    assert sum(map(len, pieces)) == len(listing.images)
    return pieces


class Mirror:
    """A worker that does nothing."""

    def __call__(self, work):
        """Return the numbers of the images."""
        return pa.table({"number": pc.list_flatten(work["number"])})


def write(folder, paths):
    """Write rows of empty masks in shards of 4,096."""
    for start in range(0, len(paths), 4096):
        some = paths[start : start + 4096]
        columns = {field.name: pa.nulls(len(some), field.type) for field in SHARD}
        columns["path"], columns["image_id"] = some, some
        columns["state"] = pa.array(np.arange(start, start + len(some)))
        columns["has_pneumothorax"] = pa.array(np.zeros(len(some), bool))
        folder.append(pa.table(columns, schema=SHARD))


def step(name, work):
    """Do some work, print a row, and return the result."""
    wall, processor = time.perf_counter(), time.process_time()
    result = work()
    seconds, used = time.perf_counter() - wall, time.process_time() - processor
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(f"| {name} | {seconds:.1f} | {used:.1f} | {peak:.0f} |", flush=True)
    return result


if __name__ == "__main__":
    main()
