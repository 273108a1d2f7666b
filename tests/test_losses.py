import keras
import numpy as np
import pytest
from keras import ops

from pneumoseg.losses import DiceLoss, FocalLoss, TverskyLoss, WeightedSum

# Two images of four pixels: one with a lesion, one without.
MASKS = np.array([[1, 1, 0, 0], [0, 0, 0, 0]], "float32").reshape(2, 2, 2, 1)
PROBABILITIES = np.array([[1, 0.5, 0.25, 0], [0.5, 0.5, 0, 0]], "float32").reshape(2, 2, 2, 1)
LOSSES = [
    FocalLoss(),
    FocalLoss(alpha=0.6, gamma=0.5),
    FocalLoss(gamma=0),
    DiceLoss(),
    DiceLoss(per_image=False),
    TverskyLoss(0.3, 0.7),
    2.0 * FocalLoss() + DiceLoss() + keras.losses.BinaryCrossentropy(),
]


@pytest.fixture(params=["mixed_float16", "mixed_bfloat16"])
def low_precision(request):
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy(request.param)
    yield request.param.removeprefix("mixed_")
    keras.config.set_dtype_policy(before)


def value(loss, y_true, y_pred, sample_weight=None):
    return ops.convert_to_numpy(loss(y_true, y_pred, sample_weight))


def gradient(loss, y_true, y_pred):
    if keras.backend.backend() == "jax":
        jax = pytest.importorskip("jax")
        return np.asarray(jax.grad(lambda pred: loss(y_true, pred))(np.asarray(y_pred, np.float32)))
    tf = pytest.importorskip("tensorflow")
    pred = tf.constant(y_pred, tf.float32)
    with tf.GradientTape() as tape:
        tape.watch(pred)
        result = loss(y_true, pred)
    return tape.gradient(result, pred).numpy()


def identifier(loss):
    return f"{loss.name}-{LOSSES.index(loss)}"


def test_focal_by_hand():
    # Positive at 0.9: 0.25 * 0.1^2 * -ln 0.9 = 0.0002634013. Background at 0.2: 0.75 * 0.2^2 * -ln 0.8 = 0.0066943065.
    loss = value(FocalLoss(alpha=0.25, gamma=2.0), [[1.0], [0.0]], [[0.9], [0.2]])
    assert loss == pytest.approx((0.0002634013 + 0.0066943065) / 2, rel=1e-5)


def test_focal_without_focus_is_half_the_cross_entropy():
    balanced = value(FocalLoss(alpha=0.5, gamma=0), MASKS, PROBABILITIES * 0.8 + 0.1)
    entropy = value(keras.losses.BinaryCrossentropy(), MASKS, PROBABILITIES * 0.8 + 0.1)
    assert balanced == pytest.approx(entropy / 2, rel=1e-6)


def test_dice_by_hand():
    # First image: tp 1.5, targets 2, probabilities 1.75: 1 - 4 / 4.75. Second: 0, 0, 1: 1 - 1 / 2.
    expected = [0.75 / 4.75, 0.5]
    assert value(DiceLoss(reduction=None), MASKS, PROBABILITIES) == pytest.approx(expected, rel=1e-6)
    assert value(DiceLoss(), MASKS, PROBABILITIES) == pytest.approx(sum(expected) / 2, rel=1e-6)
    # Pooled: tp 1.5, targets 2, probabilities 2.75: 1 - 4 / 5.75.
    assert value(DiceLoss(per_image=False), MASKS, PROBABILITIES) == pytest.approx(1.75 / 5.75, rel=1e-6)
    assert value(DiceLoss(smooth=0.5, reduction=None), MASKS, PROBABILITIES)[1] == pytest.approx(1 - 0.5 / 1.5)


def test_tversky_by_hand():
    # First image: tp 1.5, fp 0.25, fn 0.5: 1 - (3 + 1) / (3 + 0.15 + 0.7 + 1). Second: fp 1: 1 - 1 / (0.6 + 1).
    expected = [0.85 / 4.85, 0.6 / 1.6]
    loss = TverskyLoss(alpha=0.3, beta=0.7, smooth=1.0, reduction=None)
    assert value(loss, MASKS, PROBABILITIES) == pytest.approx(expected, rel=1e-6)
    # Pooled: tp 1.5, fp 1.25, fn 0.5: 1 - 4 / (3 + 0.75 + 0.7 + 1).
    pooled = value(TverskyLoss(0.3, 0.7, per_image=False), MASKS, PROBABILITIES)
    assert pooled == pytest.approx(1.45 / 5.45, rel=1e-6)


@pytest.mark.parametrize("per_image", [True, False])
@pytest.mark.parametrize("smooth", [1e-5, 1.0, 10.0])
def test_tversky_with_halves_is_dice(per_image, smooth):
    tversky = value(TverskyLoss(0.5, 0.5, smooth, per_image), MASKS, PROBABILITIES)
    assert tversky == pytest.approx(value(DiceLoss(smooth, per_image), MASKS, PROBABILITIES), rel=1e-6)


def test_empty_and_perfect_lose_nothing_but_full_on_empty_loses_almost_all():
    empty, full = np.zeros((1, 8, 8, 1)), np.ones((1, 8, 8, 1))
    for mask in (empty, full):
        assert value(DiceLoss(), mask, mask) == 0
        assert value(FocalLoss(), mask, mask) == pytest.approx(0, abs=1e-12)
    assert value(DiceLoss(), empty, full) == pytest.approx(64 / 65)
    assert value(DiceLoss(), full, empty) == pytest.approx(64 / 65)


def test_sums_add_weighted_terms():
    focal, dice = value(FocalLoss(), MASKS, PROBABILITIES), value(DiceLoss(), MASKS, PROBABILITIES)
    entropy = value(keras.losses.BinaryCrossentropy(), MASKS, PROBABILITIES)
    assert value(FocalLoss() + DiceLoss(), MASKS, PROBABILITIES) == pytest.approx(focal + dice, rel=1e-6)
    assert value(2.0 * FocalLoss() + DiceLoss() * 3, MASKS, PROBABILITIES) == pytest.approx(
        2 * focal + 3 * dice, rel=1e-6
    )
    assert value(keras.losses.BinaryCrossentropy() + DiceLoss(), MASKS, PROBABILITIES) == pytest.approx(
        entropy + dice, rel=1e-6
    )
    first_place = WeightedSum([DiceLoss(), FocalLoss(), keras.losses.BinaryCrossentropy()], [1, 4, 3])
    assert value(first_place, MASKS, PROBABILITIES) == pytest.approx(dice + 4 * focal + 3 * entropy, rel=1e-6)


def test_sums_of_sums_stay_flat_and_leave_their_parts_alone():
    part = 2 * FocalLoss()
    whole = 3 * (part + DiceLoss()) + TverskyLoss(0.3, 0.7)
    assert whole.weights == [6, 3, 1]
    assert part.weights == [2]
    assert whole.name == "focal_plus_dice_plus_tversky"


def test_other_terms_cannot_be_added():
    with pytest.raises(TypeError):
        DiceLoss() + 1
    with pytest.raises(TypeError):
        1 + DiceLoss()
    with pytest.raises(ValueError, match="reduction='sum'"):
        DiceLoss(reduction="sum") + FocalLoss()
    with pytest.raises(ValueError, match="weight above 0"):
        -1.0 * DiceLoss()
    with pytest.raises(ValueError, match="2 terms"):
        WeightedSum([DiceLoss(), FocalLoss()], [1.0])
    with pytest.raises(ValueError, match="0 terms"):
        WeightedSum([], [])


@pytest.mark.parametrize("loss", LOSSES, ids=identifier)
def test_survives_saving(loss):
    copy = keras.saving.deserialize_keras_object(keras.saving.serialize_keras_object(loss))
    assert type(copy) is type(loss)
    assert copy.get_config() == loss.get_config()
    assert value(copy, MASKS, PROBABILITIES) == value(loss, MASKS, PROBABILITIES)


@pytest.mark.parametrize("loss", LOSSES, ids=identifier)
@pytest.mark.parametrize("dtype", ["bool", "uint8", "int64", "float16", "float64"])
def test_target_dtype_does_not_matter(loss, dtype):
    assert value(loss, MASKS.astype(dtype), PROBABILITIES) == value(loss, MASKS, PROBABILITIES)


@pytest.mark.parametrize("loss", LOSSES, ids=identifier)
def test_last_axis_of_one_does_not_matter(loss):
    expected = value(loss, MASKS, PROBABILITIES)
    assert value(loss, MASKS[..., 0], PROBABILITIES) == expected
    labels, chances = np.array([1.0, 0.0, 1.0]), np.array([[0.7], [0.4], [0.2]])
    # Broadcasting (3,) and (3, 1) would compare nine pairs instead of three.
    assert value(loss, labels, chances) == value(loss, labels[:, None], chances)


@pytest.mark.parametrize("loss", LOSSES, ids=identifier)
def test_shapes_that_do_not_match_are_refused(loss):
    with pytest.raises(ValueError, match="same shape"):
        loss(np.zeros((2, 4, 4, 1)), np.zeros((2, 2, 2, 1)))
    with pytest.raises(ValueError, match="same shape"):
        loss(np.zeros((2, 1)), np.zeros((2, 4, 4, 1)))


@pytest.mark.parametrize("loss", LOSSES, ids=identifier)
@pytest.mark.parametrize("shape", [(2,), (2, 1), (2, 1, 1, 1)])
def test_sample_weight_is_one_number_per_image(loss, shape):
    if getattr(loss, "per_image", True):
        first, second = (value(loss, MASKS[i : i + 1], PROBABILITIES[i : i + 1]) for i in (0, 1))
    else:
        first = second = value(loss, MASKS, PROBABILITIES)
    weighted = value(loss, MASKS, PROBABILITIES, np.reshape([1.0, 3.0], shape))
    assert weighted == pytest.approx((first + 3 * second) / 2, rel=1e-6)


def test_weights_of_pixels_are_refused():
    with pytest.raises(ValueError, match="one weight per image"):
        DiceLoss()(MASKS, PROBABILITIES, np.ones((2, 2, 2, 1)))


@pytest.mark.parametrize("loss", LOSSES, ids=identifier)
def test_gradients_are_finite_at_certainty(loss):
    # Every combination of target 0 or 1 and a certain or almost certain prediction.
    y_true = np.repeat([[0.0], [1.0]], 4, axis=1)
    y_pred = np.array([[0.0, 1e-8, 1 - 6e-8, 1.0]] * 2)
    assert np.isfinite(value(loss, y_true, y_pred))
    assert np.isfinite(gradient(loss, y_true, y_pred)).all()


def test_dice_gradient_by_hand():
    # L = 1 - (2 tp + 1) / (t + p + 1) for the image with a lesion. With N = 4 and D = 4.75, dL/dp is -2 / D + N / D^2
    # inside the lesion and N / D^2 outside it. The mean over the two images halves both.
    found = gradient(DiceLoss(), MASKS, PROBABILITIES)[0].ravel()
    outside = 4 / 4.75**2
    assert found == pytest.approx(np.array([outside - 2 / 4.75] * 2 + [outside] * 2) / 2, rel=1e-5)


@pytest.mark.parametrize("loss", LOSSES, ids=identifier)
def test_nan_is_not_hidden(loss):
    assert np.isnan(value(loss, MASKS, np.full_like(PROBABILITIES, np.nan)))


@pytest.mark.parametrize("make", [FocalLoss, DiceLoss, TverskyLoss, lambda: FocalLoss() + DiceLoss()])
def test_low_precision_predictions_are_computed_in_float32(low_precision, make):
    # Each probability is exact in 8 bits of mantissa. Their sum, 131,072, exceeds the range of float16.
    probabilities = np.full((1, 512, 512, 1), 0.5, "float32")
    mask = np.zeros_like(probabilities)
    mask[:, :3] = 1
    loss = make()
    result = loss(ops.cast(mask, low_precision), ops.cast(probabilities, low_precision))
    assert keras.backend.standardize_dtype(result.dtype) == "float32"
    assert ops.convert_to_numpy(result) == value(make(), mask, probabilities)
    if isinstance(loss, DiceLoss):
        # tp 768, targets 1,536, probabilities 131,072.
        assert ops.convert_to_numpy(result) == pytest.approx(1 - 1537 / 132609, rel=1e-6)


@pytest.mark.parametrize(
    "make",
    [
        lambda: FocalLoss(alpha=1.5),
        lambda: FocalLoss(gamma=-1),
        lambda: DiceLoss(smooth=0),
        lambda: TverskyLoss(alpha=-0.1),
        lambda: TverskyLoss(beta=float("nan")),
        lambda: TverskyLoss(smooth=0),
    ],
)
def test_settings_out_of_range_are_refused(make):
    with pytest.raises(ValueError, match="needs"):
        make()
