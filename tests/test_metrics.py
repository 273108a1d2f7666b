import keras
import numpy as np
import pytest
from keras import ops
from sklearn.metrics import fbeta_score, jaccard_score, matthews_corrcoef

from pneumoseg.metrics import FBeta, IoU, MatthewsCorrelation
from pneumoseg.scores import dice

METRICS = [
    MatthewsCorrelation,
    IoU,
    lambda: IoU(per_image=False),
    FBeta,
    lambda: FBeta(beta=2),
    lambda: FBeta(beta=2, per_image=False),
]
EMPTY, FULL = np.zeros((1, 4, 4, 1)), np.ones((1, 4, 4, 1))


@pytest.fixture
def images():
    """Return seven random images of 5 x 6. The third and fourth have no lesion; the fourth prediction is empty too."""
    generator = np.random.default_rng(7)
    masks = generator.random((7, 5, 6, 1)) < 0.3
    probabilities = generator.random((7, 5, 6, 1)).astype("float32")
    masks[2:4] = False
    probabilities[3] *= 0.4
    return masks, probabilities


@pytest.fixture(params=["mixed_float16", "mixed_bfloat16"])
def low_precision(request):
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy(request.param)
    yield request.param.removeprefix("mixed_")
    keras.config.set_dtype_policy(before)


def seen(metric, y_true, y_pred, batch=None, sample_weight=None):
    """Return the result of a metric after batches of this size, or after one batch of all images."""
    step = batch or len(y_true)
    for start in range(0, len(y_true), step):
        part = slice(start, start + step)
        weights = None if sample_weight is None else sample_weight[part]
        metric.update_state(y_true[part], y_pred[part], weights)
    return float(metric.result())


def identity_model(shape, **settings):
    """Return a compiled model whose output is its input, so that a test can choose the predictions."""
    model = keras.Sequential([keras.Input(shape), keras.layers.Activation("linear")])
    model.compile(
        loss=lambda y_true, y_pred: ops.mean((y_true - y_pred) ** 2, axis=list(range(1, len(shape) + 1))), **settings
    )
    return model


def test_mcc_by_hand():
    # tp 6, fn 2, fp 1, tn 3: (6 * 3 - 1 * 2) / sqrt(7 * 8 * 4 * 5) = 16 / sqrt(1120).
    labels = np.array([1] * 8 + [0] * 4)
    predictions = np.array([1] * 6 + [0] * 2 + [1] + [0] * 3)
    assert seen(MatthewsCorrelation(), labels, predictions) == pytest.approx(16 / 1120**0.5, rel=1e-6)
    assert seen(MatthewsCorrelation(), labels, labels) == 1
    assert seen(MatthewsCorrelation(), labels, 1 - labels) == -1


@pytest.mark.filterwarnings("ignore:A single label was found")
@pytest.mark.parametrize("labels", [[0, 0, 0, 0], [1, 1, 1, 1], [0, 1, 0, 1]])
@pytest.mark.parametrize("predictions", [[0, 0, 0, 0], [1, 1, 1, 1]])
def test_mcc_is_zero_where_undefined(labels, predictions):
    assert seen(MatthewsCorrelation(), np.array(labels), np.array(predictions)) == 0
    assert matthews_corrcoef(labels, predictions) == 0


def test_overlap_by_hand():
    mask = np.array([1, 1, 1, 0, 0, 0]).reshape(1, 2, 3, 1)
    probability = np.array([0.9, 0.6, 0.5, 0.7, 0.1, 0.0]).reshape(1, 2, 3, 1)
    # Above 0.5: tp 2, since 0.5 itself is not above; fn 1, fp 1.
    assert seen(IoU(), mask, probability) == pytest.approx(2 / 4)
    assert seen(FBeta(), mask, probability) == pytest.approx(4 / 6)
    # Above 0.65: tp 1, fn 2, fp 1; (1 + 4) * 1 / (5 * 1 + 4 * 2 + 1).
    assert seen(FBeta(beta=2, threshold=0.65), mask, probability) == pytest.approx(5 / 14)
    assert seen(IoU(threshold=0.65), mask, probability) == pytest.approx(1 / 4)
    # A second image, empty in both, raises the mean and leaves the pooled score unchanged.
    masks, probabilities = np.concatenate([mask, 0 * mask]), np.concatenate([probability, 0 * probability])
    assert seen(IoU(), masks, probabilities) == pytest.approx((0.5 + 1) / 2)
    assert seen(IoU(per_image=False), masks, probabilities) == pytest.approx(0.5)


@pytest.mark.parametrize("make", METRICS[1:])
def test_overlap_of_empty_and_full(make):
    assert seen(make(), EMPTY, EMPTY) == 1
    assert seen(make(), FULL, FULL) == 1
    assert seen(make(), EMPTY, FULL) == 0
    assert seen(make(), FULL, EMPTY) == 0
    assert float(make().result()) == 0


@pytest.mark.parametrize("batch", [1, 3, 7])
@pytest.mark.parametrize("threshold", [0.3, 0.5, 0.8])
def test_agrees_with_scikit_learn_however_batched(images, batch, threshold):
    masks, probabilities = images
    true, pred = masks.reshape(7, -1), probabilities.reshape(7, -1) > threshold
    found = {
        "mcc": seen(MatthewsCorrelation(threshold), masks, probabilities, batch),
        "iou": seen(IoU(threshold), masks, probabilities, batch),
        "f2": seen(FBeta(2, threshold), masks, probabilities, batch),
        "pooled iou": seen(IoU(threshold, per_image=False), masks, probabilities, batch),
        "pooled f0.5": seen(FBeta(0.5, threshold, per_image=False), masks, probabilities, batch),
    }
    expected = {
        "mcc": matthews_corrcoef(true.ravel(), pred.ravel()),
        "iou": np.mean([jaccard_score(t, p, zero_division=1) for t, p in zip(true, pred, strict=True)]),
        "f2": np.mean([fbeta_score(t, p, beta=2, zero_division=1) for t, p in zip(true, pred, strict=True)]),
        "pooled iou": jaccard_score(true.ravel(), pred.ravel()),
        "pooled f0.5": fbeta_score(true.ravel(), pred.ravel(), beta=0.5),
    }
    assert found == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("make", METRICS)
def test_reset_forgets(make, images):
    metric = make()
    first = seen(metric, *images)
    seen(metric, EMPTY, FULL)
    metric.reset_state()
    assert seen(metric, *images) == first


@pytest.mark.parametrize("make", METRICS)
def test_sample_weight_counts_images(make, images):
    masks, probabilities = images
    weights = np.array([2, 0, 1, 1, 3, 0, 1])
    repeated = seen(make(), np.repeat(masks, weights, axis=0), np.repeat(probabilities, weights, axis=0))
    assert seen(make(), masks, probabilities, 3, weights) == pytest.approx(repeated, abs=1e-6)
    assert seen(make(), masks, probabilities, 3, weights.reshape(7, 1, 1, 1)) == pytest.approx(repeated, abs=1e-6)


@pytest.mark.parametrize("make", METRICS)
def test_wrong_shapes_are_refused(make):
    with pytest.raises(ValueError, match="same shape"):
        make().update_state(np.zeros((2, 4, 4, 1)), np.zeros((2, 2, 2, 1)))
    with pytest.raises(ValueError, match="one weight per image"):
        make().update_state(EMPTY, FULL, np.ones((1, 4, 4, 1)))


@pytest.mark.parametrize("make", METRICS)
def test_last_axis_of_one_and_target_dtype_do_not_matter(make, images):
    masks, probabilities = images
    expected = seen(make(), masks, probabilities)
    for dtype in ("uint8", "int64", "float16"):
        assert seen(make(), masks[..., 0].astype(dtype), probabilities) == expected
    labels, chances = np.array([1, 0, 1, 1]), np.array([0.7, 0.4, 0.2, 0.9])
    assert seen(make(), labels, chances[:, None]) == seen(make(), labels[:, None], chances[:, None])


@pytest.mark.parametrize("make", METRICS)
def test_one_nan_prediction_spoils_the_result_until_reset(make, images):
    masks, probabilities = images
    spoilt = probabilities.copy()
    spoilt[5, 0, 0] = np.nan
    metric = make()
    assert np.isnan(seen(metric, masks, spoilt, 2))
    metric.reset_state()
    assert seen(metric, masks, probabilities, 2) == seen(make(), masks, probabilities, 2)


@pytest.mark.parametrize("make", METRICS)
def test_low_precision_does_not_lower_the_counts(low_precision, make):
    # 2,049 of 4,096 pixels: float16 counts ones only up to 2,048, bfloat16 up to 256.
    mask = (np.arange(4096) < 2049).reshape(1, 64, 64, 1)
    probability = (np.arange(4096) < 2051).reshape(1, 64, 64, 1).astype("float32")
    metric = make()
    metric.update_state(mask, ops.cast(probability, low_precision))
    assert keras.backend.standardize_dtype(metric.result().dtype) == "float32"
    assert float(metric.result()) == pytest.approx(seen(make(), mask, probability), rel=1e-6)
    if isinstance(metric, IoU):
        assert float(metric.result()) == pytest.approx(2049 / 2051, rel=1e-6)


def test_counts_stay_exact_over_twelve_thousand_large_images():
    # A weight makes an image of four pixels stand for one of 1024 x 1024. The counts are odd, so every bit is needed.
    mask = np.array([1, 1, 0, 0]).reshape(1, 4)
    prediction = np.array([1, 0, 1, 0]).reshape(1, 4)
    weights = np.array([2**18 - 1, 2**18 + 1] * 50)
    metric = MatthewsCorrelation()
    naive = np.float32(0)
    for _ in range(120):
        metric.update_state(np.repeat(mask, 100, axis=0), np.repeat(prediction, 100, axis=0), weights)
        metric.update_state([[1, 1, 1, 0]], [[1, 1, 1, 0]])
        naive += np.float32(weights.sum())
        naive += np.float32(3)
    quarter = 120 * int(weights.sum())
    assert int(naive) != quarter + 360
    units, remainders = (row.astype(int) for row in ops.convert_to_numpy(metric.totals))
    assert (units * 4096 + remainders).tolist() == [quarter + 360, quarter, quarter, quarter + 120]


def test_single_pixels_count_after_sixteen_full_images():
    iou = IoU(per_image=False)
    image = np.ones((1, 1024, 1024, 1), bool)
    iou.update_state(image, image.astype("float16"), np.array([16]))
    for _ in range(50):
        iou.update_state(EMPTY[:, :1, :1], FULL[:, :1, :1])
    units, remainders = (row.astype(int) for row in ops.convert_to_numpy(iou.totals))
    assert (units * 4096 + remainders).tolist() == [2**24, 50, 0, 0]
    assert float(iou.result()) == pytest.approx(2**24 / (2**24 + 50), abs=1e-7)


def test_mean_over_images_does_not_drift():
    masks, predictions = np.tile([1.0, 1, 0], (3000, 1, 1)), np.tile([1.0, 0, 1], (3000, 1, 1))
    found = identity_model((1, 3), metrics=[IoU()]).evaluate(
        predictions, masks, batch_size=1, verbose=0, return_dict=True
    )
    naive = np.cumsum(np.full(3000, 1 / 3, "float32"), dtype="float32")[-1]
    assert abs(naive / 3000 - 1 / 3) > 1e-6
    assert found["iou"] == pytest.approx(1 / 3, abs=1e-7)


def test_mcc_at_the_size_of_an_epoch_does_not_overflow():
    metric = MatthewsCorrelation()
    tp, fp, fn, tn = 4_000_000_000, 1_000_000_000, 2_000_000_000, 5_000_000_000
    metric.totals.assign(np.array([np.array([tp, fp, fn, tn]) // 4096, np.array([tp, fp, fn, tn]) % 4096], "float32"))
    expected = (tp * tn - fp * fn) / ((tp + fp) * (tp + fn) * (tn + fp) * (tn + fn)) ** 0.5
    assert float(metric.result()) == pytest.approx(expected, abs=1e-6)


def test_an_image_too_large_to_count_is_refused():
    too_large = np.broadcast_to(np.float32(0), (1, 4097, 4096))
    with pytest.raises(ValueError, match="16777216 pixels"):
        IoU().update_state(too_large, too_large)


@pytest.mark.parametrize("make", METRICS)
def test_survives_saving(make, images):
    metric = make()
    copy = keras.saving.deserialize_keras_object(keras.saving.serialize_keras_object(metric))
    assert type(copy) is type(metric)
    assert copy.get_config() == metric.get_config()
    assert seen(copy, *images) == seen(metric, *images)


def test_f_beta_is_named_after_beta():
    assert [FBeta(beta).name for beta in (1, 2.0, 0.5)] == ["f1", "f2", "f0.5"]
    with pytest.raises(ValueError, match="beta > 0"):
        FBeta(beta=0)


@pytest.mark.parametrize("jit_compile", [False, True])
def test_a_model_evaluates_to_the_same_numbers(images, jit_compile):
    masks, probabilities = images
    model = identity_model(
        (5, 6, 1),
        metrics=[MatthewsCorrelation(), IoU(), FBeta(2, per_image=False)],
        weighted_metrics=[IoU(name="weighted_iou")],
        jit_compile=jit_compile,
    )
    weights = np.array([2.0, 0, 1, 1, 3, 0, 1])
    found = model.evaluate(probabilities, masks, batch_size=3, sample_weight=weights, verbose=0, return_dict=True)
    del found["loss"]
    assert found == pytest.approx(
        {
            "mcc": seen(MatthewsCorrelation(), masks, probabilities),
            "iou": seen(IoU(), masks, probabilities),
            "f2": seen(FBeta(2, per_image=False), masks, probabilities),
            "weighted_iou": seen(IoU(), masks, probabilities, sample_weight=weights),
        },
        abs=1e-6,
    )


def test_f1_is_the_dice_coefficient(images):
    masks, probabilities = images
    pairs = [dice(mask, probability > 0.5) for mask, probability in zip(masks, probabilities, strict=True)]
    assert np.mean(pairs) == pytest.approx(seen(FBeta(), masks, probabilities), abs=1e-6)
