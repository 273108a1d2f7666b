"""Tests of the service and the folder command for a PACS."""
