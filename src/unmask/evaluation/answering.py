"""A model that answers requests: texts by generation, log-likelihoods by its estimator. Knows no tasks."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, get_args

from unmask.data.blanks import Blanked
from unmask.errors import ConfigError
from unmask.evaluation.planning import Batch, by_prompt, longest_first, planned, rivals
from unmask.evaluation.requests import Answer, Answers, Kind, Request
from unmask.evaluation.room import answer_room, fitted_pair, stretches
from unmask.generation.options import GenerationOptions
from unmask.lm import DiffusionLM
from unmask.lm.attention import as_made, own_blocks, refuse_infilling
from unmask.lm.filling import Filler
from unmask.lm.identity import fingerprint
from unmask.lm.infilling import between
from unmask.lm.scoring import Scoring, beginning, greedy_verdicts, most_tokens, refuse_settling, settled
from unmask.objectives.asking import Pair
from unmask.objectives.settling import Contest
from unmask.objectives.target_masks import LikelihoodEstimate, rounds

Progress = Callable[[str, int, int], None]
# of a task that says nothing, as in the harness
ANSWER_TOKENS = 256
# times `batch_size` texts are generated as one batch, in which a place that is free is taken by the next
_IN_TURN = 4
# of the rules for what does not fit: answers by other rules are none of ours
_RULES = 2
# what tasks ask of a generation that is settled otherwise here, or changes nothing
_WITHOUT_EFFECT = {"do_sample", "temperature", "until", "max_gen_toks", "max_new_tokens", "num_beams", "eos_token_id"}
_SAMPLING = {"top_p", "top_k"}


@dataclass(frozen=True)
class AnswerSettings:
    """How requests are answered.

    Attributes:
        generation: fields of `GenerationOptions` that the user set; they win over the task's.
        samples, seed: of likelihoods; see `DiffusionLM.log_likelihoods`.
        batch_size: rows of one forward; changes no answer beyond rounding.
        max_length: tokens of prompt and answer together, at most; the model's own limit where that is lower.
        settle: score the choices of a question until the best is ahead by so many standard errors; None: with all
            samples.
    """

    generation: Mapping[str, Any] = field(default_factory=dict)
    samples: int = 128
    seed: int = 0
    batch_size: int = 16
    max_length: int | None = None
    settle: float | None = None

    def __post_init__(self) -> None:
        if self.settle is not None and self.settle < 0:
            raise ConfigError(
                f"settle is {self.settle:g} standard errors; it must be at least 0. 4 is a careful value."
            )
        for name, least in (("samples", 1), ("batch_size", 1), ("max_length", 2)):
            value = getattr(self, name)
            if value is not None and value < least:
                raise ConfigError(f"{name} is {value}; it must be at least {least}.")
        GenerationOptions.of(**self.generation)


class Answerer:
    """A model with its settings and the answers that are there already.

    Attributes:
        shortened: requests whose prompt lost its beginning, for want of room.
        curtailed: of each answer with less room than its task asks for, the tokens asked for and those it may have.
        ignored: settings of tasks that have no meaning here.
        copies: of each choice among others, the noised copies that were needed.
    """

    def __init__(
        self, lm: DiffusionLM, settings: AnswerSettings, answers: Answers, progress: Progress | None = None
    ) -> None:
        self.lm, self.settings, self.answers, self.progress = lm, settings, answers, progress
        limit = lm.model.facts.shape.max_length
        self.limit = min(settings.max_length or limit, limit)
        if settings.settle is not None:
            refuse_settling(lm.model)
        changing = {**asdict(settings), "batch_size": None}
        if settings.settle is None:
            # as it was before there was such a setting
            del changing["settle"]
        self.stamp = json.dumps([fingerprint(lm), changing, _RULES], sort_keys=True, default=str)
        self.shortened: set[str] = set()
        self.curtailed: dict[str, tuple[int, int]] = {}
        self.ignored: set[str] = set()
        self.copies: dict[str, int] = {}
        self._noted: set[str] = set()

    @property
    def _is_causal(self) -> bool:
        return self.lm.model.facts.attention == "causal"

    def key(self, request: Request) -> str:
        """Of the request's answer by this model with these settings."""
        return request.key(self.stamp)

    def answer(self, requests: Sequence[Request]) -> dict[str, Answer]:
        """Answer what has no answer yet; key -> answer of all requests.

        Raises:
            ConfigError, DataError, ModelError: as `DiffusionLM.generate` and `log_likelihoods`.
        """
        self.work(self.batches(requests))
        found = {key: self.answers.by_key[key] for key in map(self.key, requests)}
        self.note(requests, found)
        return found

    def batches(self, requests: Sequence[Request]) -> list[Batch]:
        """What is answered together: all requests but those that other runs have answered."""
        return planned({self.key(request): request for request in requests}, self.answers, self._split)

    def lacks(self, batch: Batch) -> bool:
        """Whether something of it has no answer."""
        return any(self.key(request) not in self.answers.by_key for request in batch.requests)

    def work(self, batches: Sequence[Batch]) -> dict[str, Answer]:
        """Answer batches that lack something, each as a whole: what it has is kept, and read again where it is asked.

        Returns:
            Key -> answer of all their requests.
        """
        for kind, how in (
            ("generate", self._generate),
            ("fill", self._fill),
            ("score", self._score),
            ("rolling", self._roll),
        ):
            own = [batch for batch in batches if batch.requests[0].kind == kind]
            keys = [key for batch in own for key in map(self.key, batch.requests)]
            done, total = sum(key in self.answers.by_key for key in keys), len(keys)
            self._tell(kind, done, total)
            for batch in filter(self.lacks, own):
                for key, answer in how([(self.key(request), request) for request in batch.requests]):
                    if key not in self.answers.by_key:
                        self.answers.add(key, answer, batch.run)
                        done += 1
                        self._tell(kind, done, total)
                self._noted.update(map(self.key, batch.requests))
        return {key: self.answers.by_key[key] for batch in batches for key in map(self.key, batch.requests)}

    def _split(self, requests: Sequence[Request]) -> Iterator[Sequence[Request]]:
        """Requests that are answered together."""
        size = self.settings.batch_size
        kinds = {kind: [request for request in requests if request.kind == kind] for kind in get_args(Kind)}
        groups: dict[GenerationOptions, list[Request]] = {}
        for request in kinds["generate"]:
            groups.setdefault(self.options(request), []).append(request)
        for members in groups.values():
            yield from longest_first(members, _IN_TURN * size)
        yield from longest_first(kinds["fill"], size)
        # the longest first, unless what prompts begin with is computed once
        begins_alike = self._is_causal
        samples = 1 if begins_alike else self.settings.samples
        if self.settings.settle is not None:
            samples = rounds(samples)[0]
        yield from by_prompt(kinds["score"], size, samples, begins_alike=begins_alike)
        yield from longest_first(kinds["rolling"], 1)

    def note(self, requests: Iterable[Request], found: Mapping[str, Answer]) -> None:
        """Count what is `shortened`, `curtailed`, `ignored`, `copies`, of answers from before or of others too."""
        for request in requests:
            key = self.key(request)
            answer = found[key]
            if "question" in request.settings and isinstance(answer, list):
                self.copies[key] = int(answer[2])
            if key in self._noted:
                continue
            self._noted.add(key)
            if request.kind == "generate":
                self._prompt(request, self.options(request))
            elif request.kind == "fill":
                self._blank(request)
            elif request.kind == "score":
                self._pair(request)

    def _tell(self, kind: str, done: int, total: int) -> None:
        if self.progress is not None and total:
            self.progress(kind, done, total)

    def options(self, request: Request) -> GenerationOptions:
        """How the request's text is generated: as the user said, then the task, then the model.

        Raises:
            ConfigError: the user's own max_new_tokens leave nothing of what the model reads to a prompt.
        """
        asked = request.settings
        self.ignored |= set(asked) - _WITHOUT_EFFECT - _SAMPLING
        found: dict[str, Any] = {
            "max_new_tokens": int(asked.get("max_gen_toks") or asked.get("max_new_tokens") or ANSWER_TOKENS),
            "temperature": _temperature(asked),
            "stop": tuple(dict.fromkeys(text for text in _texts(asked.get("until")) if text)),
            **{name: asked[name] for name in _SAMPLING if asked.get(name) and _temperature(asked) > 0},
            **self.settings.generation,
        }
        found["max_new_tokens"] = self._new_tokens(request, found["max_new_tokens"])
        found.setdefault("steps", found["max_new_tokens"])
        found["seed"] = self.settings.seed
        options = GenerationOptions.of(**found)
        return options if "block_size" in found else own_blocks(options, self.lm.model.facts)

    def _new_tokens(self, request: Request, wanted: int) -> int:
        if "max_new_tokens" not in self.settings.generation:
            given = answer_room(len(self._ids(request.prompt, request)), wanted, self.limit)
            if given < wanted:
                self.curtailed[self.key(request)] = wanted, given
            return given
        if wanted >= self.limit:
            raise ConfigError(
                f"--max_new_tokens {wanted:,} leaves no room for a prompt: {self.limit:,} tokens are read, prompt and "
                "answer together. Give fewer."
            )
        return wanted

    def _generate(self, asked: Sequence[tuple[str, Request]]) -> Iterator[tuple[str, Answer]]:
        options = self.options(asked[0][1])
        prompts = [self._prompt(request, options) for _, request in asked]
        seeds = [options.seed + request.seed for _, request in asked]
        results = self.lm.generate_many(prompts, options, batch_size=self.settings.batch_size, seeds=seeds)
        return ((asked[number][0], result.text) for number, result in results)

    def _fill(self, asked: Sequence[tuple[str, Request]]) -> Iterator[tuple[str, Answer]]:
        """Blanks, as many as fit into a forward."""
        refuse_infilling(self.lm.model.facts)
        # one token per step, unless the user has fewer
        steps = max(request.settings["tokens"][1] for _, request in asked)
        options = GenerationOptions.of(
            **{"steps": steps, "block_size": None, **self.settings.generation, "stop": ()}, seed=self.settings.seed
        )
        seeds = [self.settings.seed + request.seed for _, request in asked]
        read = [self._blank(request) for _, request in asked]
        filler = Filler(self.lm.model, self.lm.tokenizer, as_made(options, self.lm.model.facts))
        for (key, _), result in zip(asked, filler.stream(read, seeds).run(), strict=True):
            yield key, result.written[0]

    def _blank(self, request: Request) -> Blanked:
        least, most = request.settings["tokens"]
        return between(*self._around(request, self.limit - most), (least, most))

    def _around(self, request: Request, room: int) -> tuple[str, str]:
        """The text around a blank; where it does not fit, without its first lines, and then without its last ones."""
        before, after = (text.splitlines(keepends=True) for text in (request.prompt, request.target))
        while len(self.lm.encode("".join([*before, *after]))) > room and (before or after):
            self.shortened.add(request.prompt)
            (before or after).pop(0 if before else -1)
        return "".join(before), "".join(after)

    def _prompt(self, request: Request, options: GenerationOptions) -> str | list[int]:
        """The prompt; where it does not fit beside its answer, the ids of its end."""
        ids, room = self._ids(request.prompt, request), self.limit - options.max_new_tokens
        if len(ids) > room:
            self.shortened.add(request.prompt)
            return ids[-room:]
        return ids if request.is_chat else request.prompt

    def _ids(self, text: str, request: Request) -> list[int]:
        """A template has written all special tokens that belong there."""
        if not request.is_chat:
            return self.lm.encode(text)
        return list(self.lm.tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"])

    def _score(self, asked: Sequence[tuple[str, Request]]) -> Iterator[tuple[str, Answer]]:
        pairs = {key: self._pair(request) for key, request in asked}
        greedy = self._greedy([pairs[key] for key, request in asked if request.greedy])
        is_written = {key: next(greedy) if request.greedy else False for key, request in asked}
        alone = [key for key, request in asked if "question" not in request.settings]
        for key, found in zip(alone, self._log_likelihoods([pairs[key] for key in alone]), strict=True):
            yield key, [found, is_written[key]]
        questions: dict[tuple[str, ...], dict[str, Request]] = {}
        for key, request in asked:
            if "question" in request.settings:
                questions.setdefault(rivals(request), {})[key] = request
        for key, found in self._settled(list(questions.values()), pairs) if questions else ():
            yield key, [found.mean, is_written[key], found.samples]

    def _settled(
        self, questions: Sequence[Mapping[str, Request]], pairs: Mapping[str, Pair]
    ) -> Iterator[tuple[str, LikelihoodEstimate]]:
        """Score the choices of questions, each by its key, until it is settled which is best."""
        contests = [
            Contest(
                [pairs[key] for key in choices],
                list(zip(*(request.settings["sizes"] for request in choices.values()), strict=True)),
            )
            for choices in questions
        ]
        errors = self.settings.settle or 0.0
        for number, found in settled(self.lm.model, self.lm.tokenizer, contests, self._scoring(), errors):
            yield from zip(questions[number], found, strict=True)

    def _pair(self, request: Request) -> tuple[list[int], list[int]]:
        """Prompt and target, encoded as one text; spaces between them are the target's."""
        kept = request.prompt.rstrip()
        target = request.prompt[len(kept) :] + request.target
        whole, start = self._ids(kept + target, request), len(self._ids(kept, request))
        pair = self._begun(whole[:start]), whole[start:]
        fitted = fitted_pair(*pair, most_tokens(self.lm.model, self.limit))
        if fitted != pair:
            self.shortened.add(request.prompt)
        return fitted

    def _begun(self, prompt: list[int]) -> list[int]:
        """What an autoregressive model reads before a target, which is never nothing."""
        return prompt if prompt or not self._is_causal else [beginning(self.lm.tokenizer)]

    def _log_likelihoods(self, pairs: Sequence[Pair]) -> list[float]:
        how = self._scoring()
        settings = {"samples": how.samples, "seed": how.seed, "batch_size": how.batch_size}
        found = self.lm.log_likelihoods(pairs, **settings, guidance_scale=how.guidance_scale)
        return [estimate.mean for estimate in found]

    def _scoring(self) -> Scoring:
        guidance = self.settings.generation.get("guidance_scale", 0.0)
        return Scoring(self.settings.samples, self.settings.seed, self.settings.batch_size, guidance)

    def _greedy(self, pairs: Sequence[Pair]) -> Iterator[bool]:
        """Of each pair, whether decoding without chance, the surest token first and one per step, writes the target."""
        if self.lm.model.facts.attention == "block_causal":
            verdicts = dict(self._greedy_by_blocks(pairs))
        else:
            verdicts = dict(greedy_verdicts(self.lm.model, self.lm.tokenizer, pairs, self._scoring()))
        return iter([verdicts.get(number, True) for number in range(len(pairs))])

    def _greedy_by_blocks(self, pairs: Sequence[Pair]) -> Iterator[tuple[int, bool]]:
        for length in sorted({len(target) for _, target in pairs} - {0}):
            members = [number for number, (_, target) in enumerate(pairs) if len(target) == length]
            options = GenerationOptions(
                max_new_tokens=length,
                block_size=length,
                steps=length,
                early_stop=False,
                guidance_scale=self._scoring().guidance_scale,
            )
            options = own_blocks(options, self.lm.model.facts)
            prompts = [pairs[number][0] for number in members]
            for place, result in self.lm.generate_many(prompts, options, batch_size=self.settings.batch_size):
                yield members[place], result.token_ids == pairs[members[place]][1]

    def _roll(self, asked: Sequence[tuple[str, Request]]) -> Iterator[tuple[str, Answer]]:
        for key, request in asked:
            yield key, sum(self._log_likelihoods(list(self._windows(self._ids(request.prompt, request)))))

    def _windows(self, ids: list[int]) -> Iterator[Pair]:
        """Stretches that the model can read; the first after what begins a text, where there is such a token."""
        first = self.lm.tokenizer.bos_token_id
        begun = [first] if isinstance(first, int) else []
        return stretches(
            self._begun(begun), ids[1:] if begun and ids[:1] == begun else ids, most_tokens(self.lm.model, self.limit)
        )


def _temperature(asked: Mapping[str, Any]) -> float:
    """The harness samples where `do_sample` says so, or where it is silent and the temperature is above 0."""
    given = asked.get("temperature")
    if asked.get("do_sample", bool(given)):
        return 1.0 if given is None else float(given)
    return 0.0


def _texts(value: Any) -> Iterable[str]:
    return [value] if isinstance(value, str) else value or []
