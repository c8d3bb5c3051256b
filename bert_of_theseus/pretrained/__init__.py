"""A fine-tuned model of Hugging Face in, a smaller one out.

Nothing here imports Keras before the model and the texts are checked.
"""

__all__ = ["CompressedFolder", "compress_pretrained"]


def __getattr__(name):
    if name in __all__:
        from . import run

        return getattr(run, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
