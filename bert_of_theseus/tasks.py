"""The tasks, under the name that they had in 0.1: they are part of `bert_of_theseus.data`."""

from .data import Classification, MultiLabel, Regression, SpanExtraction, Tagging, TextTask

__all__ = ["Classification", "MultiLabel", "Regression", "SpanExtraction", "Tagging", "TextTask"]
