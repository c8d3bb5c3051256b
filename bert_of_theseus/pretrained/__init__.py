"""A fine-tuned model of Hugging Face in, a smaller one out.

Nothing here imports Keras before the model and the texts are checked.
"""

from .run import CompressedFolder, compress_pretrained

__all__ = ["CompressedFolder", "compress_pretrained"]
