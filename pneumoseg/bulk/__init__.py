"""Bulk inference on Ray: many images, many workers, results as Parquet shards."""

from pneumoseg.bulk.shards import read_results

__all__ = ["read_results"]
