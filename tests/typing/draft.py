from __future__ import annotations

from typing_extensions import assert_type, reveal_type

from bert_of_theseus.layers import BinaryRandomChoice, ModuleChoice
from bert_of_theseus.schedules import LinearReplacement
from bert_of_theseus.callbacks import ReplacementRateScheduler
from bert_of_theseus.models import build_theseus_model, build_successor_model
from bert_of_theseus.recipe import compress
from bert_of_theseus.training import Stage, fit
from bert_of_theseus.saving import load_model
from bert_of_theseus.deploy import Predictor
from bert_of_theseus import open_runtime

reveal_type(BinaryRandomChoice)
reveal_type(BinaryRandomChoice(0.5))
reveal_type(ModuleChoice)
reveal_type(LinearReplacement(0.3, steps=10)(5))
reveal_type(ReplacementRateScheduler(LinearReplacement(0.3, steps=10)))
reveal_type(build_theseus_model)
reveal_type(build_successor_model)
reveal_type(compress)
reveal_type(Stage(3, 1e-4).epochs)
reveal_type(fit)
reveal_type(load_model)
reveal_type(Predictor)
reveal_type(open_runtime)
