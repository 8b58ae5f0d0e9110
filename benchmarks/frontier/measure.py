"""Decode the test questions of each task under each setting; one line of JSON for each (task, seed, setting).

What is there already is not measured again, so a run may be stopped at any time.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import torch
from benchmarks.frontier.folders import texts
from benchmarks.frontier.settings import BLOCK, Setting, settings
from benchmarks.frontier.tasks import CHECKED, stories

import unmask
from unmask.errors import UnmaskError

STORY_PROMPT, STORY_CANVAS = 24, 48
ROWS = 50  # of a batch
GRAM = 4


@dataclass(frozen=True)
class Exam:
    """Questions for one model, and how answers are marked.

    Attributes:
        model: its folder. lm: the model in it.
        prompts: what it is given.
        canvas: tokens to write.
        marks: one number per answer: 1 or 0 for right or wrong, nats per token for a story.
    """

    model: str
    lm: unmask.DiffusionLM
    prompts: list[Any]
    canvas: int
    marks: Any


def exam(name: str, seed: int, models: Path, shared: Path, count: int) -> Exam:
    """The questions of a task; another seed is another model, and other questions."""
    folder = models / f"{name}-{seed}"
    lm = unmask.load(folder, device="cpu")
    if name == "stories":
        return _stories(folder, lm, seed, shared, count // 2)
    task = CHECKED[name]
    questions = task.some("test", count, seed)
    if name == "tables":
        prompts: list[Any] = [[{"role": "user", "content": question.prompt}] for question in questions]
    else:
        prompts = [list(lm.tokenizer(question.prompt).input_ids) for question in questions]

    def marks(outs: Sequence[unmask.Generation]) -> list[float]:
        return [float(task.is_right(question, out.text)) for question, out in zip(questions, outs, strict=True)]

    return Exam(folder.name, lm, prompts, task.canvas, marks)


def _stories(folder: Path, lm: unmask.DiffusionLM, seed: int, shared: Path, count: int) -> Exam:
    rows = [lm.tokenizer(entry.prompt).input_ids for entry in stories(texts(shared / "data"), "test")]
    rows = [row for row in rows if len(row) >= STORY_PROMPT + STORY_CANVAS]
    prompts = [row[:STORY_PROMPT] for row in rows[seed * count : (seed + 1) * count]]
    judge = judge_of(folder.parent)

    def marks(outs: Sequence[unmask.Generation]) -> list[float]:
        return [charged_nll(judge, prompt, out.token_ids) for prompt, out in zip(prompts, outs, strict=True)]

    return Exam(folder.name, lm, prompts, STORY_CANVAS, marks)


@cache
def judge_of(models: Path) -> Any:
    """stories260K as it was trained, from left to right."""
    from transformers import LlamaForCausalLM

    return LlamaForCausalLM.from_pretrained(models / "judge").eval()


@torch.no_grad()
def charged_nll(judge: Any, prompt: Sequence[int], written: Sequence[int]) -> float:
    """Nats per written token under the judge, a token that ends a run of four seen before counting as a blind guess.

    Without that charge, repeating oneself would look best of all.
    """
    if not written:
        return charge(judge)
    row = torch.tensor([[*prompt, *written]])
    known = row.clamp(max=judge.config.vocab_size - 1)
    log_prob_LV = judge(input_ids=known).logits[0].log_softmax(-1)
    nats = -log_prob_LV[len(prompt) - 1 : -1].gather(1, known[0, len(prompt) :, None])[:, 0]
    nats[torch.tensor(repeats(written))] = charge(judge)
    return float(nats.mean())


def charge(judge: Any) -> float:
    """Nats of a blind guess."""
    return float(torch.tensor(float(judge.config.vocab_size)).log())


def repeats(written: Sequence[int]) -> list[bool]:
    """Which tokens end a run of four tokens that stood there before."""
    seen: set[tuple[int, ...]] = set()
    found = []
    for end in range(1, len(written) + 1):
        run = tuple(written[max(end - GRAM, 0) : end])
        found.append(len(run) == GRAM and run in seen)
        seen.add(run)
    return found


def decode(given: Exam, setting: Setting) -> dict[str, Any]:
    """Marks and costs of a setting."""
    started, outs = time.process_time(), []
    for first in range(0, len(given.prompts), ROWS):
        part = given.prompts[first : first + ROWS]
        outs += given.lm.generate(part, **{"max_new_tokens": given.canvas, "block_size": BLOCK, **setting.options})
    seconds = time.process_time() - started
    return {
        "marks": given.marks(outs),
        "emitted": sum(out.stats.emitted for out in outs),
        "forwards": sum(out.stats.forwards.total for out in outs),
        "positions": sum(out.stats.positions for out in outs),
        "seconds": round(seconds, 2),
    }


def measure_all(options: Any) -> None:
    """Everything that is not in the file yet, seed by seed."""
    done = {(row["task"], row["seed"], row["setting"]) for row in read(options.results)}
    refused: set[tuple[str, str]] = set()
    for seed in range(options.seeds):
        for name in options.tasks:
            if not (options.models / f"{name}-{seed}" / "checkpoint-final").is_dir():
                print(f"{name}-{seed}: not trained", file=sys.stderr, flush=True)
                continue
            given = exam(name, seed, options.models, options.shared, options.questions)
            for setting in settings(name):
                key = (name, seed, setting.name)
                if key in done or (name, setting.name) in refused:
                    continue
                try:
                    found = decode(given, setting)
                except UnmaskError as error:
                    print(f"{name}, {setting.name}: {error}", file=sys.stderr, flush=True)
                    refused.add((name, setting.name))
                    continue
                labels = {"strategy": setting.strategy, "knob": setting.knob, "cache": setting.cache}
                row = {"task": name, "seed": seed, "model": given.model, "setting": setting.name, **labels, **found}
                with options.results.open("a", encoding="utf-8") as file:
                    file.write(json.dumps(row) + "\n")


def read(path: Path) -> list[dict[str, Any]]:
    """The rows so far."""
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()] if path.exists() else []
