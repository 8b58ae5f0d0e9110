"""The base's first weights: attention heads that already look at neighbours, and heads that compare neighbourhoods.

To find a cell, a layer must bring a row's key to its cells, and a later one must compare the key asked for with
those. Neither helps without the other, so a small model of random weights stays for tens of millions of tokens where it
guesses among the cells of the table. Here both exist from the first step, for any word, and training makes of them what
it needs:

* Every embedding has a common part, so that a query can ask for a position, whatever the word. In the first layer, and
  in half of the second, a head looks at one neighbour (the one before, two before, ... the one behind) and writes a
  sketch of it into channels that no embedding uses. All heads sketch alike: a position then holds a bag of neighbours.
* In the next layers queries and keys are equal, made of that bag, and use only those rotary pairs that hardly turn: a
  position attends to those with a similar neighbourhood. Values and outputs pass on the word that stands there.

Mimetic initialisation (Trockman and Kolter 2023, arXiv 2305.09828) does the like with products of weights; induction
heads are described by Olsson et al. (2022, arXiv 2209.11895).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from unmask.lm import load
from unmask.models.checkpoints import load_model, save_model
from unmask.models.dense import Attention, DenseTrunk, Layer
from unmask.models.rotary import rotary_frequencies
from unmask.models.shape import DenseShape

NEIGHBOURS = (-1, -2, -3, -4, 1, 2, -5, 3)
FAST, SLOW = 0.05, 0.04  # radians per position: above tells neighbours apart, below compares at a distance
SHARPNESS = 2.0
LIKENESS = 4.0
COMMON = 0.7


@dataclass(frozen=True)
class _Plan:
    """Where things are in the D channels: words first, then the sketch of the neighbours, then the common part.

    Attributes:
        sketch_KD: how a word is sketched, K numbers. generator: of whatever is random.
    """

    shape: DenseShape
    sketch_KD: Tensor
    generator: torch.Generator

    @property
    def words(self) -> int:
        return self.shape.width - 1 - self.shape.head_width

    @property
    def sketched(self) -> slice:
        return slice(self.words, self.shape.width - 1)

    def random(self, *size: int) -> Tensor:
        return torch.randn(size, generator=self.generator)

    def frequencies(self) -> Tensor:
        return rotary_frequencies(self.shape.head_width, self.shape.rope_theta, None, torch.device("cpu"))


def write_first_weights(folder: Path, seed: int) -> None:
    """Add weights to a folder that holds a configuration."""
    model = load_model(folder, from_scratch=True, seed=seed, dtype="float32")
    arrange(model.trunk, torch.Generator().manual_seed(seed))
    save_model(model, folder)


@torch.no_grad()
def redraw(source: Path, target: Path, tokens: list[int], seed: int) -> None:
    """Copy a model and draw the embeddings of some tokens anew, each like those of two others.

    For tokens that were hardly ever to be told. Head and embedding are one matrix, and such a token is pushed the same
    way at every step: after a while they all are one, and no later training can tell "How" from "Which".
    """
    lm = load(source, device="cpu", dtype="float32")
    generator = torch.Generator().manual_seed(seed)
    embedding = lm.model.trunk.embed.weight
    kept = embedding[torch.tensor(sorted(set(range(len(embedding))) - set(tokens)))]
    one, other = (kept[torch.randint(len(kept), (len(tokens),), generator=generator)] for _ in range(2))
    embedding[torch.tensor(tokens)] = kept.mean(0) + (one - other) / math.sqrt(2)
    lm.save(target)


@torch.no_grad()
def arrange(trunk: DenseTrunk, generator: torch.Generator) -> None:
    """Rewrite freshly initialised weights in place: embeddings, and the attention of the first four layers."""
    shape = trunk.shape
    plan = _Plan(shape, _sketch(shape, generator), generator)
    embedding = trunk.embed.weight
    embedding.normal_(0, shape.width**-0.5, generator=generator)
    embedding[:, plan.words :] = 0.0
    embedding[:, -1] = COMMON
    for number, layer in enumerate(trunk.layers):
        assert isinstance(layer, Layer)
        layer.mlp.down_proj.weight.mul_(0.3)
        for head in range(shape.heads):
            if number == 0 or (number == 1 and head >= shape.heads // 2):
                _look_beside(layer.attention, head, plan)
            elif number < 4:
                _look_alike(layer.attention, head, plan)


def _sketch(shape: DenseShape, generator: torch.Generator) -> Tensor:
    words = shape.width - 1 - shape.head_width
    sketch = torch.zeros(shape.head_width, shape.width)
    sketch[:, :words] = torch.randn(shape.head_width, words, generator=generator) / math.sqrt(words)
    return sketch


def _look_beside(attention: Attention, head: int, plan: _Plan) -> None:
    """Attend to one neighbour, whatever it is, and write its sketch."""
    width, pairs = plan.shape.head_width, plan.shape.head_width // 2
    rows = slice(head * width, (head + 1) * width)
    query, key = attention.q_proj.weight[rows], attention.k_proj.weight[rows]
    query.mul_(0.1)
    key.mul_(0.1)
    offset = NEIGHBOURS[head % len(NEIGHBOURS)]
    for pair, frequency in enumerate(plan.frequencies().tolist()):
        if frequency < FAST:
            break
        # turned so far that query and key agree at this distance
        angle = -offset * frequency
        for weight, cosine, sine in ((query, 1.0, 0.0), (key, math.cos(angle), math.sin(angle))):
            weight[[pair, pair + pairs]] = 0.0
            weight[pair, -1], weight[pair + pairs, -1] = SHARPNESS * cosine, SHARPNESS * sine
    attention.v_proj.weight[rows] = plan.sketch_KD * (1.0 if head < 4 else 0.5)
    attention.o_proj.weight[:, rows] = 0.0
    attention.o_proj.weight[plan.sketched, rows] = torch.eye(width)


def _look_alike(attention: Attention, head: int, plan: _Plan) -> None:
    """Attend to positions with a similar neighbourhood, and pass on the word that stands there."""
    width, pairs = plan.shape.head_width, plan.shape.head_width // 2
    rows = slice(head * width, (head + 1) * width)
    slow = [pair for pair, frequency in enumerate(plan.frequencies().tolist()) if frequency < SLOW]
    channels = torch.tensor([*slow, *(pair + pairs for pair in slow)])
    compared = torch.zeros(width, plan.shape.width)
    compared[channels] = plan.random(len(channels), plan.shape.width) * 0.3 * math.sqrt(LIKENESS / plan.shape.width)
    compared[channels, plan.sketched] = plan.random(len(channels), width) * math.sqrt(LIKENESS / width)
    compared[:, -1] = 0.0
    attention.q_proj.weight[rows] = compared
    attention.k_proj.weight[rows] = compared
    passed = torch.zeros(width, plan.shape.width)
    passed[:, : plan.words] = torch.linalg.qr(plan.random(plan.words, width))[0].T
    attention.v_proj.weight[rows] = passed
    attention.o_proj.weight[:, rows] = passed.T
