"""A loss and a metric that ignore outputs without a label, such as those of padding.

Labels are integers, and `NO_LABEL`, -1, marks an output without one; or they are distributions over
the classes, another model's answers say, and zeros mark an output without one.
"""

from __future__ import annotations

from ..backend import keras, ops, reduce_sum, register


def _labels_and_mask(labels, outputs):
    """Integers or distributions, whether they are the latter, and 1 where there is a label."""
    soft = len(labels.shape) == len(outputs.shape)
    labels = ops.cast(labels, "float32" if soft else "int32")
    is_there = reduce_sum(labels, -1) > 0 if soft else labels >= 0
    return labels, soft, ops.cast(is_there, "float32")


@register
class MaskedCrossentropy(keras.losses.Loss):
    """Mean cross-entropy over the outputs that have a label.

    Keras' own loss counts padding where the mask of the hidden states is lost, and special tokens
    everywhere. Here the labels alone decide, so a batch has the same loss at any padded length.
    Sample weights, per text or per output, weight the mean. A batch without labels has loss 0.

    Call arguments:
        y_true: Integers of shape `(batch_size, n)`, classes or -1; or distributions of shape
            `(batch_size, n, num_classes)`, or zeros.
        y_pred: Probabilities of shape `(batch_size, n, num_classes)`.
        sample_weight: Of shape `(batch_size,)` or `(batch_size, n)`. Defaults to `None`.

    Example:

    >>> model.compile("adam", MaskedCrossentropy(), metrics=[MaskedAccuracy()])
    """

    ignore_class = -1  # as Keras' sparse loss calls it

    def __init__(self, name="masked_crossentropy", **kwargs):
        super().__init__(name=name, **kwargs)

    # Not in `call`, whose result Keras would average.
    def __call__(self, y_true, y_pred, sample_weight=None):
        labels, soft, weights = _labels_and_mask(y_true, y_pred)
        y_pred = ops.cast(y_pred, "float32")
        if soft:
            losses = keras.losses.categorical_crossentropy(labels, y_pred)
        else:
            losses = keras.losses.sparse_categorical_crossentropy(ops.maximum(labels, 0), y_pred)
        if sample_weight is not None:  # Keras 2 passes the mask as sample weights
            sample_weight = ops.cast(sample_weight, "float32")
            per_text = len(sample_weight.shape) == 1
            weights = weights * (sample_weight[:, None] if per_text else sample_weight)
        total = reduce_sum(weights)
        return reduce_sum(losses * weights) / ops.maximum(total, keras.backend.epsilon())

    def call(self, y_true, y_pred):
        return self(y_true, y_pred)


@register
class MaskedAccuracy(keras.metrics.Mean):
    """Accuracy over the outputs that have a label. Of a distribution, that is its largest class.

    Args:
        name: String. Defaults to `"masked_accuracy"`.
        dtype: Of the metric. Defaults to `None`, Keras' default.
    """

    def __init__(self, name="masked_accuracy", dtype=None):
        super().__init__(name=name, dtype=dtype)

    def update_state(self, y_true, y_pred, sample_weight=None):
        labels, soft, mask = _labels_and_mask(y_true, y_pred)
        labels = ops.cast(ops.argmax(labels, -1), "int32") if soft else labels
        hits = ops.equal(ops.cast(ops.argmax(y_pred, -1), "int32"), labels)
        return super().update_state(ops.cast(hits, "float32"), sample_weight=mask)
