"""How well a model predicts texts: nats per token, perplexity, bits per byte, by share masked and by position.

A text is cut into passages, each of which is scored after the token that begins a text and nothing else: diffusion and
autoregressive models are asked the same question about the same tokens.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from unmask.data.rows import BadRow, Row
from unmask.data.sources.reading import read_all
from unmask.errors import ConfigError, DataError, ResourceError
from unmask.evaluation.report import Curve, Metric
from unmask.evaluation.requests import drop_torn_line
from unmask.generation.player import finite
from unmask.lm import DiffusionLM
from unmask.lm.identity import fingerprint
from unmask.lm.scoring import Scoring, beginning, estimates, pair_ids
from unmask.objectives.profile import BINS, Profile

# passages that are scored between two writes to the file of cases
_TOGETHER = 32
# exp of more is too large a number
_LARGEST_EXPONENT = 700


@dataclass(frozen=True)
class Passage:
    """A piece of a text: ids that are given, ids that are scored, and the bytes of UTF-8 that these stand for."""

    id: str
    prompt: list[int]
    target: list[int]
    bytes: int


@dataclass(frozen=True)
class LikelihoodSettings:
    """How passages are scored; see `DiffusionLM.log_likelihoods`."""

    samples: int = 32
    seed: int = 0
    batch_size: int = 32


def passages_of(lm: DiffusionLM, texts: Sequence[str], max_length: int | None = None) -> list[Passage]:
    """Texts, cut into pieces of at most `max_length` tokens with the one that begins them; None: the model's limit.

    Raises:
        ConfigError: `max_length` is out of range.
        DataError: the texts hold no tokens.
    """
    limit = lm.model.facts.shape.max_length
    length = min(max_length or limit, limit)
    if length < 2 or (max_length or 0) > limit:
        raise ConfigError(f"max_length is {max_length}; it must be from 2 to {limit:,}, what this model reads.")
    first = [beginning(lm.tokenizer)]
    found = [
        Passage(f"{number}:{start}", first, ids, size)
        for number, text in enumerate(texts)
        for start, ids, size in _pieces(lm, text, length - 1)
    ]
    if not found:
        raise DataError("the texts hold no tokens. Give texts that are not empty.")
    return found


def _pieces(lm: DiffusionLM, text: str, length: int) -> Iterator[tuple[int, list[int], int]]:
    """Where each piece starts among the tokens, its ids, its bytes: together all bytes of the text."""
    coded = lm.tokenizer(text, add_special_tokens=False, return_offsets_mapping=True, verbose=False)
    ids, places = coded["input_ids"], [start for start, _ in coded["offset_mapping"]]
    for start in range(0, len(ids), length):
        # bytes before the first token, and after the last, belong to it
        left = places[start] if start else 0
        right = places[start + length] if start + length < len(ids) else len(text)
        yield start, ids[start : start + length], len(text[left:right].encode())


def answers_of(
    lm: DiffusionLM, conversations: Sequence[Row], label: str, *, skip_bad_rows: bool = False
) -> tuple[list[Passage], list[str]]:
    """The last answer of each conversation, given what is before it, and notes about those that were left out.

    Args:
        lm: the model.
        conversations: rows with `messages`.
        label: of the data, for messages.
        skip_bad_rows: leave out what does not fit the model, or what its chat template refuses, and count it.

    Raises:
        DataError: there is such a conversation, and it is not to be skipped; or none that fits.
    """
    limit, number = lm.model.facts.shape.max_length, itertools.count()

    def read(row: Row) -> dict[str, Any]:
        place, messages = next(number), row.fields["messages"]
        answer = str(messages[-1]["content"])
        try:
            prompt, target = pair_ids(messages[:-1], answer, lm.tokenizer)
        except DataError as error:
            raise BadRow(row.where, f"cannot be asked: {error}", "template") from None
        length = len(prompt) + len(target)
        if length > limit:
            told = f"has {length:,} tokens, answer included; this model reads at most {limit:,}. Shorten it."
            raise BadRow(row.where, told, "length")
        return {"passage": Passage(str(place), prompt, target, len(answer.encode()))}

    found, notes = read_all(conversations, label, read, skip_bad_rows=skip_bad_rows)
    return [record["passage"] for record in found], notes


class PassageScores:
    """Scores of passages by key, in memory and in a JSONL file, to which they are added as they come.

    Raises:
        ConfigError: the file holds something else. ResourceError: it cannot be written.
    """

    def __init__(self, path: Path | None, keys: Sequence[str]) -> None:
        self.path, self.by_key = path, {}
        if path is not None:
            self._read(path)
        if set(self.by_key) - set(keys):
            raise ConfigError(
                f"{path} holds cases of another model, other data or other settings, or of an older version. Choose "
                "another folder, or --fresh."
            )
        self._write([], cut=True)

    def _read(self, path: Path) -> None:
        content = path.read_bytes() if path.exists() else b""
        # what follows the last line break was being written when the evaluation was killed
        for number, line in enumerate(content.split(b"\n")[:-1], 1):
            try:
                self.by_key[json.loads(line)["key"]] = json.loads(line)
            except (ValueError, KeyError, TypeError):
                raise ConfigError(f"{path}:{number} is no case of an evaluation. Choose another folder.") from None

    def add(self, cases: Sequence[dict[str, Any]]) -> None:
        """Keep some."""
        self.by_key |= {case["key"]: case for case in cases}
        self._write(cases)

    def _write(self, cases: Sequence[dict[str, Any]], *, cut: bool = False) -> None:
        if self.path is None:
            return
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            if cut:
                drop_torn_line(self.path)
            with self.path.open("a", encoding="utf-8") as stream:
                stream.writelines(json.dumps(case, ensure_ascii=False) + "\n" for case in cases)
        except OSError as error:
            raise ResourceError(f"cannot write {self.path}: {error.strerror or error}.") from None


def score_passages(
    lm: DiffusionLM,
    passages: Sequence[Passage],
    settings: LikelihoodSettings,
    *,
    cases_file: Path | None = None,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> list[dict[str, Any]]:
    """A case for each passage, in their order: nats, error, tokens, bytes, profile; what the file has is kept.

    Raises:
        ConfigError: a setting is out of range, or the file holds other cases. ResourceError: it cannot be written.
    """
    stamp = [fingerprint(lm), settings.samples, settings.seed]
    keys = [_key(stamp, number, passage) for number, passage in enumerate(passages)]
    scores = PassageScores(cases_file, keys)
    left = [number for number, key in enumerate(keys) if key not in scores.by_key]
    progress(len(passages) - len(left), len(passages))
    # of one length together
    left.sort(key=lambda number: -len(passages[number].prompt) - len(passages[number].target))
    for start in range(0, len(left), _TOGETHER):
        numbers = left[start : start + _TOGETHER]
        pairs = [(passages[number].prompt, passages[number].target) for number in numbers]
        scoring = Scoring(settings.samples, settings.seed, settings.batch_size, profiled=True)
        found = estimates(lm.model, lm.tokenizer, pairs, scoring, numbers)
        scores.add([_case(keys[numbers[i]], passages[numbers[i]], estimate) for i, estimate in found])
        progress(len(scores.by_key), len(passages))
    return [scores.by_key[key] for key in keys]


def _key(stamp: list[Any], number: int, passage: Passage) -> str:
    said = json.dumps([stamp, number, passage.prompt, passage.target])
    return hashlib.sha256(said.encode()).hexdigest()[:24]


def _case(key: str, passage: Passage, estimate: Any) -> dict[str, Any]:
    profile, tokens = estimate.profile or Profile.empty(), len(passage.target)
    nats = -estimate.mean
    found = {
        "key": key,
        "id": passage.id,
        "nats": nats,
        "stderr": estimate.stderr,
        "tokens": tokens,
        "bytes": passage.bytes,
        "metrics": {"nll": nats / max(tokens, 1), "bits_per_byte": nats / math.log(2) / max(passage.bytes, 1)},
        "weights": {"nll": tokens, "bits_per_byte": passage.bytes},
        "profile": {name: getattr(profile, name).tolist() for name in Profile.__dataclass_fields__},
    }
    # of one sample the error is not known; JSON has no other word for it
    return finite(found)


def metrics_of(cases: Sequence[dict[str, Any]]) -> dict[str, Metric]:
    """Figures of all passages; their errors are what the masks leave open, not the choice of the text."""
    tokens, size, count = sum(case["tokens"] for case in cases), sum(case["bytes"] for case in cases), len(cases)
    nats, errors = (numbers([case[name] for case in cases]) for name in ("nats", "stderr"))
    whole, error = sum(nats), math.hypot(*errors)
    nll, bits = whole / max(tokens, 1), 1 / math.log(2) / max(size, 1)
    perplexity = math.exp(nll) if nll < _LARGEST_EXPONENT else math.inf

    def metric(value: float, by: float, unit: str) -> Metric:
        return Metric(value, None if math.isnan(error) else error * by, count, unit)

    return {
        "nll": metric(nll, 1 / max(tokens, 1), "nats per token"),
        "perplexity": metric(perplexity, perplexity / max(tokens, 1), ""),
        "bits_per_byte": metric(whole * bits, bits, "bits per byte"),
        "tokens": Metric(tokens, None, count),
        "bytes": Metric(size, None, count),
    }


def numbers(values: Iterable[float | None]) -> list[float]:
    """What stands in a file as numbers again: null is not a number."""
    return [math.nan if value is None else value for value in values]


def curves_of(cases: Sequence[dict[str, Any]]) -> tuple[Curve, ...]:
    """Cross-entropy by the share of tokens that is masked, and the bound by position."""
    whole = sum((_profile(case) for case in cases), Profile.empty())
    time, place = (_points(whole.time_nats, whole.time_tokens), _points(whole.position_nats, whole.position_tokens))
    by_place = Curve("By position", "share of the passage, from its beginning", "nats per token", place)
    if not time:
        return (by_place,)
    by_time = Curve("By noise", "share of tokens masked", "nats per masked token", time)
    return (by_time, by_place)


def _profile(case: dict[str, Any]) -> Profile:
    told = {name: numbers(values) for name, values in case["profile"].items()}
    return Profile(**{name: torch.tensor(values, dtype=torch.float64) for name, values in told.items()})


def _points(nats: torch.Tensor, tokens: torch.Tensor) -> tuple[tuple[float, float, float], ...]:
    seen = [index for index in range(BINS) if tokens[index] > 0]
    return tuple((index / BINS, (index + 1) / BINS, float(nats[index] / tokens[index])) for index in seen)
