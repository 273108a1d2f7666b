"""Score the classifier on the validation images once an epoch."""

import keras
import numpy as np
import tensorflow as tf

from pneumoseg.scores import best_threshold, classification_scores


class MCC(keras.callbacks.Callback):
    """Put validation scores into the logs: one pass over the images an epoch, one confusion matrix (section 4.1.1).

    Adds `val_loss`, `val_mcc`, `val_precision`, `val_recall`, `val_accuracy` and `val_f1` at a threshold of .5,
    `val_auc`, and `val_best_threshold` with its `val_best_mcc`, see `scores`. Keras calls callbacks in their order and
    hands the logs on, so this one stands before those that read them; the training needs no validation data besides.

    Args:
        validation: Batches whose first element is images; in one order each time.
        labels: bool, (n,): whether each image is positive, in that order.
        loss: Measured on the labels and the probabilities, as a mean over images.

    Attributes:
        probabilities: float32, (n,), after the last epoch that ended; None before the first.
    """

    def __init__(self, validation: tf.data.Dataset, labels: np.ndarray, loss: keras.losses.Loss) -> None:
        super().__init__()
        self._validation, self._labels, self._loss = validation, np.asarray(labels, bool), loss
        self.probabilities: np.ndarray | None = None

    def on_epoch_end(self, epoch: int, logs: dict[str, float] | None = None) -> None:
        """Predict, score, and add the scores to the logs."""
        self.probabilities = self.model.predict(self._validation, verbose=0)[:, 0]
        targets, outputs = self._labels[:, None].astype(np.float32), self.probabilities[:, None]
        scores = {"loss": float(self._loss(targets, outputs))}
        scores |= classification_scores(self._labels, self.probabilities)
        scores["best_threshold"], scores["best_mcc"] = best_threshold(self._labels, self.probabilities)
        if logs is not None:
            logs.update({f"val_{name}": score for name, score in scores.items()})
