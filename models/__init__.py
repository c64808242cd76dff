"""The model of a run: built from a configuration or from plain arguments, or read from a run directory."""

from models.heads.prompts import prompt_notes
from models.model import Model, build_backbone, build_model, count_parameters, described_values
from models.peft.aft import entries_fingerprint
from models.predictor import Prediction, Predictor, load_run
from models.weights.lift import convert_upstream
from models.weights.load import load_backbone
from utils.errors import ModelError

__all__ = [
    "Model",
    "ModelError",
    "Prediction",
    "Predictor",
    "build_backbone",
    "build_model",
    "convert_upstream",
    "count_parameters",
    "described_values",
    "entries_fingerprint",
    "load_backbone",
    "load_run",
    "prompt_notes",
]
