"""lm-evaluation-harness over a model: asks, scores, and writes the harness' own files beside ours."""

from __future__ import annotations

import logging
import sys
from collections.abc import Sequence
from contextlib import redirect_stdout
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lm_eval import evaluator  # pyright: ignore[reportMissingImports]
from lm_eval.loggers import EvaluationTracker  # pyright: ignore[reportMissingImports]

from unmask.errors import ConfigError
from unmask.evaluation.answering import Answerer
from unmask.evaluation.harness_tasks import ChosenTasks
from unmask.evaluation.lm_eval import Blanks, HarnessLM
from unmask.evaluation.requests import Answer, Request
from unmask.evaluation.sharing import Team

# the harness' own: of Python, NumPy, torch, and of the examples it draws
USUAL_SEEDS = (0, 1234, 1234, 1234)
# resamples for the error of metrics that are no mean; its own 100,000 take minutes and change the third digit
_RESAMPLES = 1000


@dataclass(frozen=True)
class HarnessOptions:
    """What the harness itself is told.

    Attributes:
        num_fewshot: examples before each question; None: the task's own number.
        limit: first so many questions of each task, or below 1 that share of them.
        apply_chat_template: put prompts through the chat template.
        fewshot_as_multiturn: examples are turns of a conversation; None: yes with the chat template.
        system_instruction: a system message before everything.
        log_samples: keep every question with its answer.
        infill_tokens: see `HarnessLM.blanks`; None: the task's own prompt.
        seed: of everything that is drawn; None: the harness' own seeds.
    """

    num_fewshot: int | None = None
    limit: float | None = None
    apply_chat_template: bool = False
    fewshot_as_multiturn: bool | None = None
    system_instruction: str | None = None
    log_samples: bool = False
    infill_tokens: Blanks | None = None
    seed: int | None = None

    def __post_init__(self) -> None:
        if self.num_fewshot is not None and self.num_fewshot < 0:
            raise ConfigError(f"num_fewshot is {self.num_fewshot}; it must be at least 0.")
        if self.limit is not None and self.limit <= 0:
            raise ConfigError(
                f"limit is {self.limit:g}; it must be above 0: a number of questions, or a share of them."
            )
        if self.fewshot_as_multiturn and not self.apply_chat_template:
            raise ConfigError("fewshot_as_multiturn makes turns of a conversation: add --apply_chat_template.")


def evaluate_tasks(
    answerer: Answerer,
    chosen: ChosenTasks,
    options: HarnessOptions,
    *,
    name: str,
    output_path: Path | None = None,
    team: Team | None = None,
) -> dict[str, Any]:
    """Let the harness evaluate a model.

    Args:
        answerer: the model, its settings and the answers that are there.
        chosen: the tasks.
        options: what the harness is told.
        name: of the model, for the harness' record.
        output_path: folder for its files, `results_*.json` and with `log_samples` `samples_*.jsonl`; None: none.
        team: other processes that answer too.

    Returns:
        The harness' results with its samples.

    Raises:
        ConfigError: the harness refuses the settings, for example more examples than there are.
    """
    crew = team or Team()

    def ask(requests: Sequence[Request]) -> list[Answer]:
        # several processes share what is left; one says itself how much is there
        left = [batch for batch in answerer.batches(requests) if crew.size == 1 or answerer.lacks(batch)]
        found = {**answerer.answers.by_key, **crew.lead(left, answerer.work)}
        answerer.note(requests, found)
        return [found[key] for key in map(answerer.key, requests)]

    lm = HarnessLM(
        answerer.lm,
        ask,
        greedy=chosen.greedy,
        is_chat=options.apply_chat_template,
        blanks=options.infill_tokens,
        settles=None if answerer.settings.settle is None else chosen.by_name,
    )
    tracker = None if output_path is None else EvaluationTracker(output_path=str(output_path))
    multiturn = options.apply_chat_template if options.fewshot_as_multiturn is None else options.fewshot_as_multiturn
    seeds = USUAL_SEEDS if options.seed is None else (options.seed,) * 4
    logging.getLogger("lm_eval").setLevel(logging.ERROR)
    # the harness' looks for a repository around the user's folder, and lets git's complaints through
    evaluator.get_git_commit_hash = _no_commit
    try:
        # it prints, where the results are to stand alone
        with redirect_stdout(sys.stderr):
            results: Any = evaluator.simple_evaluate(
                model=lm,
                model_args={"pretrained": name},
                tasks=chosen.objects,
                task_manager=chosen.manager,
                num_fewshot=options.num_fewshot,
                limit=options.limit,
                batch_size=answerer.settings.batch_size,
                log_samples=True,
                apply_chat_template=options.apply_chat_template,
                fewshot_as_multiturn=multiturn,
                system_instruction=options.system_instruction,
                evaluation_tracker=tracker,
                bootstrap_iters=_RESAMPLES,
                random_seed=seeds[0],
                numpy_random_seed=seeds[1],
                torch_random_seed=seeds[2],
                fewshot_random_seed=seeds[3],
                # asked before any data was read: see `choose_tasks`
                confirm_run_unsafe_code=True,
            )
    except (AssertionError, ValueError) as error:
        raise ConfigError(f"the harness stopped: {error}") from error
    if tracker is not None:
        told = {name: found for name, found in results.items() if name != "samples"}
        tracker.save_results_aggregated(results=told, samples=results["samples"])
        for task, rows in results["samples"].items() if options.log_samples else ():
            tracker.save_results_samples(task_name=task, samples=deepcopy(rows))
    return results


def _no_commit() -> None:
    return None
