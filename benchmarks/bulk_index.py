"""Seconds and memory that bulk inference needs for its images: names, work, and the index of finished images.

Paths are made up, and nothing is read or predicted. A real listing comes on top: one small request or read per file.

    python benchmarks/bulk_index.py --images 1000000
"""

import argparse
import resource
import tempfile
import time

import numpy as np
import pyarrow as pa

from pneumoseg.bulk.listing import Listing
from pneumoseg.bulk.run import _Run
from pneumoseg.bulk.shards import SHARD, ResultFolder, read_results


def main():
    """Print a table with a row per step."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, default=1_000_000)
    count = parser.parse_args().images
    print(f"| step, {count} images | seconds | peak memory of the process, MB |\n| --- | --- | --- |")
    with tempfile.TemporaryDirectory() as temporary:
        folder = ResultFolder(temporary)
        paths = pa.array((f"s3://hospital/2023/{n % 997:03d}/1.2.840.{n:09d}.dcm" for n in range(count)), pa.string())
        images = pa.table({"path": paths.cast(pa.large_string()), "state": np.arange(count)})
        listing = Listing(images, [], 0, False)
        tell("paths alone", time.perf_counter())
        run = step("a new run: names and work", lambda: new_run(folder, listing))
        del run
        step("250 shards written", lambda: write(folder, paths))
        (folder.write("run.json", b"{}"))
        done = step("index of the shards", lambda: folder.rows(["path", "image_id", "error", "state"]))
        run = step("a finished run: comparison", lambda: _Run(folder, listing, done, 32))
        assert run.is_complete
        step("count and check at the end", run.sum_up)
        assert len(step("read_results", lambda: read_results(temporary))) == count


def new_run(folder, listing):
    """Prepare a run of which nothing is done, for 8 workers."""
    schema = pa.schema([SHARD.field(name) for name in ("path", "image_id", "error", "state")])
    run = _Run(folder, listing, schema.empty_table(), 32)
    assert sum(map(len, run._pieces(8))) == len(listing.images)
    return run


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
    start = time.perf_counter()
    result = work()
    tell(name, start)
    return result


def tell(name, start):
    """Print a row of the table."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(f"| {name} | {time.perf_counter() - start:.1f} | {peak:.0f} |", flush=True)


if __name__ == "__main__":
    main()
