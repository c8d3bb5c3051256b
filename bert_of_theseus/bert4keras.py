"""Makes bert4keras work on today's TensorFlow. Import it before bert4keras:

    import bert_of_theseus.bert4keras
    from bert4keras.models import build_transformer_model
    from bert4keras.optimizers import Adam, extend_with_weight_decay

It chooses Keras 2 for this process and registers the package's layers for Keras' files.
"""

# The set-up comes first: it decides which Keras the other modules are for.
from . import _bert4keras  # noqa: F401, I001

from . import heads, models  # noqa: F401
