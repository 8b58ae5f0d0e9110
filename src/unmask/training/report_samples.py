"""Texts that a model in training writes for its report: always from the same prompts, with the same seed.

Knows nothing of pages. Each rank runs the same forwards, on its own copy of the weights, or, where they are divided
over ranks, on what all of them put together.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby, islice
from pathlib import Path
from typing import Any

from datasets import Dataset

from unmask.errors import ConfigError
from unmask.generation.options import GenerationOptions
from unmask.generation.player import Played, Recording, Vocabulary
from unmask.lm import DiffusionLM
from unmask.training.arguments import Settings

# tokens written after short answers' questions
_FEWEST = 16
# of the data, unless prompts are given: rows that become prompts, tokens that are few, rows looked at
_ROWS, _SHORT, _LOOKED_AT = 3, 200, 200
# a corpus has no question: its rows are gone on with after so many tokens
_OPENING = 24
# tokens decoded together, and written by each forward: samples must cost little
_BLOCK, _AT_ONCE = 32, 2
_ROLES = ("user", "human")


@dataclass(frozen=True)
class Asked:
    """A prompt.

    Attributes:
        title: what it is called in the report. prompt: ids, text or messages. expected: the answer of the data.
    """

    title: str
    prompt: Any
    expected: str | None = None


class Sampler:
    """Writes the same texts again and again.

    Args:
        lm: the model in training. asked: the prompts. new_tokens: written after each. seed: of the sampler.
        block_size: of a model that learns blocks, each of which sees those before it; None: it learns whole rows.
    """

    def __init__(
        self, lm: DiffusionLM, asked: Sequence[Asked], new_tokens: int, seed: int, block_size: int | None = None
    ) -> None:
        self.lm, self.asked = lm, asked
        self.vocabulary = Vocabulary.of(lm.tokenizer)
        self.options = GenerationOptions(
            max_new_tokens=new_tokens,
            block_size=block_size or min(_BLOCK, new_tokens),
            attention="block_causal" if block_size else "auto",
            steps=-(-new_tokens // _AT_ONCE),
            seed=seed,
            trace=True,
        )
        self.last_step: int | None = None

    def record(self, step: int) -> dict[str, Any]:
        """The texts that the model writes now, as plain data; see `Recording.to_dict`."""
        self.last_step = step
        results = self.lm.generate([asked.prompt for asked in self.asked], self.options)
        rows = [
            Played(result.trace, asked.title, result.text, result.finish_reason, result.stats, asked.expected)
            for asked, result in zip(self.asked, results, strict=True)
            if result.trace is not None
        ]
        recording = Recording(rows, self.vocabulary).to_dict()
        for row in recording["rows"]:
            row["title"] = row.pop("prompt")
        return recording


def sampler_for(
    settings: Settings, verb: str, lm: DiffusionLM, rows: Any, *, unseen: bool
) -> tuple[Sampler | None, str]:
    """What writes the samples of a run, and a word about them; None where there are none to be had.

    Args:
        settings, verb: of the run. lm: the model in training.
        rows: tokenised rows that prompts are taken from where the user gives none. unseen: they are not trained on.
    """
    run, seed = settings.run, settings.trainer.get("seed", 42)
    given = given_prompts(run.sample_prompts)
    if given == []:
        return None, ""
    if lm.family.attention == "causal":
        return None, "An autoregressive model is not sampled here."
    room = lm.model.facts.shape.max_length
    asked = asked_of(given, verb, lm, room) if given else asked_of_rows(rows, verb, lm, room, run.sample_new_tokens)
    if not asked:
        return None, "No row of the data fits as a prompt; --sample_prompts names others."
    longest = max(len(lm.encode(one.prompt)) for one in asked)
    new_tokens = max(1, min(run.sample_new_tokens, _enough(asked, lm), room - longest))
    where = "given prompts" if given else "rows that are not trained on" if unseen else "rows of the training data"
    block_size = settings.data.block_size if settings.objective.objective == "block" else None
    return Sampler(lm, asked, new_tokens, seed, block_size), f"{where}, seed {seed}, temperature 0"


def given_prompts(value: Sequence[str] | None) -> list[str] | None:
    """The prompts that the user gave, a file's lines among them; None where none were, empty where none are wanted."""
    if value is None:
        return None
    found: list[str] = []
    for text in value:
        if os.path.isfile(text):  # unlike Path.is_file, False for names that no file can have
            found += _lines(text)
        elif text.strip():
            found.append(text)
    return found


def _lines(file: str) -> list[str]:
    try:
        lines = Path(file).read_text("utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        why = "it is not UTF-8" if isinstance(error, UnicodeDecodeError) else error.strerror
        raise ConfigError(f"sample_prompts: {file} cannot be read: {why}. Write one prompt per line.") from None
    return [line for line in lines if line.strip()]


def asked_of(prompts: Sequence[str], verb: str, lm: DiffusionLM, room: int) -> list[Asked]:
    """A user's messages for a model that is fine-tuned, texts to go on from for one that is pretrained."""
    found = [
        Asked(_title(text), text if verb == "pretrain" else [{"role": "user", "content": text}]) for text in prompts
    ]
    for one in found:
        if (length := len(lm.encode(one.prompt))) >= room:
            raise ConfigError(
                f'sample_prompts: "{one.title}" has {length:,} tokens, the model was made for {room:,}. Shorten it.'
            )
    return found


def asked_of_rows(rows: Any, verb: str, lm: DiffusionLM, room: int, new_tokens: int) -> list[Asked]:
    """The beginnings of a few rows, up to the answer, or an opening of a text: the first short ones, else the shortest.

    Args:
        rows: tokenised. verb: `pretrain` or `sft`. lm: for its tokenizer. room: positions of the model.
        new_tokens: that are to be written.
    """
    if not isinstance(rows, Dataset):
        return []
    looked_at = list(islice(rows.with_format(None), _LOOKED_AT))
    ends = [(number, _prompt_end(row, verb)) for number, row in enumerate(looked_at)]
    fitting = [(number, end) for number, end in ends if 0 < end <= room - new_tokens]
    # by length where it is long, by place where it is not
    chosen = sorted(fitting, key=lambda pair: (max(pair[1], _SHORT), pair[0]))[:_ROWS]
    return [_asked(looked_at[number], end, number, verb, lm) for number, end in sorted(chosen)]


def _enough(asked: Sequence[Asked], lm: DiffusionLM) -> int:
    """Tokens that hold twice the longest answer expected; no limit where none is."""
    answers = [len(lm.encode(one.expected)) for one in asked if one.expected is not None]
    return max(_FEWEST, 2 * max(answers)) if len(answers) == len(asked) else lm.model.facts.shape.max_length


def _prompt_end(row: Any, verb: str) -> int:
    """Where the first answer begins; in a text, some way in."""
    noisable = row.get("may_noise")
    start = noisable.index(True) if verb == "sft" and noisable and any(noisable) else 0
    return start or min(_OPENING, len(row["input_ids"]) // 2)


def _asked(row: Any, end: int, number: int, verb: str, lm: DiffusionLM) -> Asked:
    ids, is_question = row["input_ids"], verb == "sft" and not row["may_noise"][0]
    return Asked(
        _title(_question(ids[:end], lm), number), list(ids[:end]), _answer(row, end, lm) if is_question else None
    )


def _answer(row: Any, start: int, lm: DiffusionLM) -> str:
    """The first turn that is learned."""
    flags = row["may_noise"][start:]
    end = start + (flags.index(False) if False in flags else len(flags))
    return str(lm.tokenizer.decode(row["input_ids"][start:end], skip_special_tokens=True)).strip()


def _question(ids: Sequence[int], lm: DiffusionLM) -> str:
    """What was asked last, without the template around it: the last text between special tokens that is no role."""
    special = set(lm.tokenizer.all_special_ids)
    runs = [list(run) for is_special, run in groupby(ids, key=lambda token: token in special) if not is_special]
    texts = [str(lm.tokenizer.decode(run)).strip() for run in runs]
    asked = [text for text in texts if text and text.partition("\n")[0].strip() not in ("assistant", *_ROLES)]
    headed = [text.partition("\n")[2] for text in texts if text.partition("\n")[0].strip() in _ROLES]
    return ([text for text in headed if text.strip()] or asked or [""])[-1]


def _title(text: str, number: int | None = None) -> str:
    flat = " ".join(text.split())
    short = flat if len(flat) <= 90 else f"{flat[:56]} … {flat[-32:]}"
    return short or f"row {number}"
