"""The public face: a model with its tokenizer, text in, text out.

Everything is done elsewhere: the networks are in `models`, decoding is in `generation`, likelihoods are in
`objectives`. This package turns text into ids and back.
"""

from __future__ import annotations

from unmask.data.blanks import BLANK
from unmask.lm.loading import load
from unmask.lm.model import DiffusionLM
from unmask.lm.prompts import Messages, Prompt
from unmask.lm.streaming import Generation, TextStream

__all__ = ["BLANK", "DiffusionLM", "Generation", "Messages", "Prompt", "TextStream", "load"]
