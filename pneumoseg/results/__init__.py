"""Results on disk: a table, masks and a page, written so that a stopped run can go on."""

from pneumoseg.results.folder import PAGE, Results, result_rows, write_results

__all__ = ["PAGE", "Results", "result_rows", "write_results"]
