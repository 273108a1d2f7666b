"""Pipelines of the bundles `c` and `s` that a module's own fixture `bundles` makes."""

import shutil

import pytest

from pneumoseg.inference import assemble_pipeline


@pytest.fixture(scope="module")
def assembled(bundles, tmp_path_factory):
    """Folder of a pipeline, only to be read."""
    folder = tmp_path_factory.mktemp("assembled") / "p"
    assemble_pipeline(bundles / "c", bundles / "s", folder)
    return folder


@pytest.fixture
def folder(assembled, tmp_path):
    """Folder of a pipeline that a test may change."""
    return shutil.copytree(assembled, tmp_path / "p")
