"""The harness' view of a model: its requests turned into ours, and answers into what it expects.

Everything but this, `harness_tasks.py` and `harness.py` works without the harness.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

from jinja2 import TemplateError
from lm_eval.api.model import LM  # pyright: ignore[reportMissingImports]

from unmask.errors import ConfigError, DataError
from unmask.evaluation.harness_choices import told_apart
from unmask.evaluation.harness_demands import BLANK
from unmask.evaluation.requests import Answer, Request, numbered
from unmask.lm import DiffusionLM

# all requests of one kind, in their order -> answers in that order
Ask = Callable[[Sequence[Request]], list[Answer]]
Blanks = tuple[int, int] | Literal["oracle"]


class HarnessLM(LM):
    """A model that the harness may ask.

    `is_greedy`, which the harness wants beside each log-likelihood, says whether decoding without chance (the surest
    token first, one per step, the target being one block) writes the target; an autoregressive model decodes from left
    to right, a block-causal one in its own blocks. It is computed for the tasks in `greedy` alone, false elsewhere.

    Args:
        lm: the model, for its tokenizer.
        ask: answers requests.
        greedy: names of tasks with a metric that uses it.
        is_chat: whether prompts go through the chat template.
        blanks: where a question has a text before and one behind what is missing, fill that in instead of answering the
            task's prompt: the fewest and the most tokens, or "oracle", as many as the right answer has.
        settles: tasks by name, whose choices are scored until it is settled which is best; None: each by itself.
    """

    def __init__(
        self,
        lm: DiffusionLM,
        ask: Ask,
        *,
        greedy: frozenset[str] = frozenset(),
        is_chat: bool = False,
        blanks: Blanks | None = None,
        settles: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__()
        self.settles = settles
        self.lm, self.ask, self.greedy, self.is_chat, self.blanks = lm, ask, greedy, is_chat, blanks
        self._device = lm.model.device
        if is_chat and not lm.tokenizer.chat_template:
            raise ConfigError(
                "--apply_chat_template: the tokenizer of this checkpoint has no chat template. Leave the option out, "
                "or take a checkpoint that was fine-tuned on conversations."
            )

    def generate_until(self, requests: list[Any], disable_tqdm: bool = False) -> list[str]:
        """Texts after prompts, each cut before its first stop string."""
        return self._asked([self._written(entry) for entry in requests])

    def loglikelihood(self, requests: list[Any], disable_tqdm: bool = False) -> list[tuple[float, bool]]:
        """Log-likelihoods of continuations in nats, each with `is_greedy`."""
        rivals = [{}] * len(requests) if self.settles is None else told_apart(requests, self.settles)
        asked = [
            Request(
                "score",
                *entry.args,
                settings=settings,
                greedy=entry.task_name in self.greedy,
                is_chat=self.is_chat,
            )
            for entry, settings in zip(requests, rivals, strict=True)
        ]
        return [(found[0], bool(found[1])) for found in self._asked(asked)]

    def loglikelihood_rolling(self, requests: list[Any], disable_tqdm: bool = False) -> list[float]:
        """Log-likelihoods of whole texts in nats, in stretches of what the model can read."""
        return self._asked([Request("rolling", entry.args[0]) for entry in requests])

    @property
    def tokenizer_name(self) -> str:
        """For the harness' cache of requests."""
        return str(self.lm.tokenizer.name_or_path).replace("/", "__")

    def chat_template(self, chat_template: bool | str = False) -> str | None:
        """The template's text, for the harness' record of what was done."""
        return str(self.lm.tokenizer.chat_template) if chat_template else None

    def apply_chat_template(self, chat_history: list[dict[str, str]], add_generation_prompt: bool = True) -> str:
        """Messages as a text, up to where the model goes on.

        Raises:
            DataError: the template refuses them.
        """
        try:
            text = self.lm.tokenizer.apply_chat_template(
                chat_history,
                tokenize=False,
                add_generation_prompt=add_generation_prompt,
                continue_final_message=not add_generation_prompt,
            )
        except TemplateError as error:
            raise DataError(f"the chat template refuses a task's messages: {error}.") from None
        return str(text)

    def _written(self, entry: Any) -> Request:
        prompt, settings = entry.args
        if self.blanks is None or not set(entry.doc) >= BLANK:
            return Request("generate", prompt, settings=dict(settings), is_chat=self.is_chat)
        lengths = self.blanks
        if lengths == "oracle":
            right = entry.doc["canonical_solution"]
            lengths = (max(1, len(self.lm.tokenizer(right, add_special_tokens=False)["input_ids"])),) * 2
        return Request("fill", entry.doc["prompt"], entry.doc["suffix"], {"tokens": list(lengths)})

    def _asked(self, requests: Sequence[Request]) -> list[Any]:
        return self.ask(numbered(requests))
