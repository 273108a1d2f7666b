"""Validation scores of the classifier, after each epoch."""

import keras
import numpy as np
import tensorflow as tf

from pneumoseg.scores import best_threshold, classification_scores


class MCC(keras.callbacks.Callback):
    """Add validation scores to the logs, from one pass over the images per epoch (section 4.1.1).

    Adds `val_loss`, `val_mcc`, `val_precision`, `val_recall`, `val_accuracy` and `val_f1` at a threshold of 0.5,
    `val_auc`, and `val_best_threshold` with its `val_best_mcc`, see `scores`. Keras calls callbacks in order and passes
    the logs on, so put this one before those that read the scores. The training needs no other validation data.

    Args:
        validation: Batches whose first element is the images, in the same order each time.
        labels: Whether each image is positive, bool, (n,), in that order.
        loss: Loss that is measured on labels and probabilities, as a mean over images.

    Attributes:
        probabilities: Probability of each image after the last epoch, float32, (n,); None before the first epoch.

    Example:
        >>> scores = MCC(validation.batch(16), labels, keras.losses.BinaryCrossentropy())  # doctest: +SKIP
        >>> model.fit(training, callbacks=[scores]).history["val_mcc"]  # doctest: +SKIP
    """

    def __init__(self, validation: tf.data.Dataset, labels: np.ndarray, loss: keras.losses.Loss) -> None:
        super().__init__()
        self._validation, self._labels, self._loss = validation, np.asarray(labels, bool), loss
        self.probabilities: np.ndarray | None = None

    def on_epoch_end(self, epoch: int, logs: dict[str, float] | None = None) -> None:
        """Predict the validation images and add their scores to the logs."""
        self.probabilities = self.model.predict(self._validation, verbose=0)[:, 0]
        targets, outputs = self._labels[:, None].astype(np.float32), self.probabilities[:, None]
        scores = {"loss": float(keras.ops.convert_to_numpy(self._loss(targets, outputs)))}
        scores |= classification_scores(self._labels, self.probabilities)
        scores["best_threshold"], scores["best_mcc"] = best_threshold(self._labels, self.probabilities)
        if logs is not None:
            logs.update({f"val_{name}": score for name, score in scores.items()})
