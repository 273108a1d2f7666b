import socket

import pytest

from pneumoseg.models.weights import WeightsUnavailableError, check_weights, weights_errors


@pytest.mark.parametrize("weights", [None, "imagenet"])
def test_names_of_weights_pass(weights):
    assert check_weights(weights) is None


def test_a_missing_file_and_a_misspelt_name_are_refused(tmp_path):
    with pytest.raises(ValueError, match="'imagnet' is neither"):
        check_weights("imagnet")
    with pytest.raises(ValueError, match="is neither 'imagenet' nor None nor an existing file"):
        check_weights(tmp_path / "none.h5")


def test_a_file_of_another_format_is_refused(tmp_path):
    (tmp_path / "model.keras").write_bytes(b"")
    with pytest.raises(ValueError, match=r"not a weights file.*_notop\.h5"):
        check_weights(tmp_path / "model.keras")


@pytest.mark.parametrize("failure", [TimeoutError("timed out"), ConnectionResetError("reset")])
def test_a_stalled_or_broken_download_is_unavailable(failure):
    with (
        pytest.raises(WeightsUnavailableError, match=r"xception.*weights=PATH"),
        weights_errors("imagenet", "xception"),
    ):
        raise failure


def test_a_download_leaves_the_time_limit_of_the_process_alone():
    before = socket.getdefaulttimeout()
    with weights_errors("imagenet", "xception"):
        assert socket.getdefaulttimeout() == before
    assert socket.getdefaulttimeout() == before


@pytest.mark.parametrize("weights", [None, "imagenet"])
def test_an_error_that_is_not_about_weights_passes_unchanged(weights):
    error = ValueError("Input size must be at least 71x71")
    with pytest.raises(ValueError, match="at least 71") as caught, weights_errors(weights, "xception"):
        raise error
    assert caught.value is error
