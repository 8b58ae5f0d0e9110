"""The options of `unmask eval --tasks`, and how its words are read, those in the harness' own strings among them.

Knows neither tasks nor models.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, replace
from typing import Any

from unmask.cli import sampling
from unmask.cli.config import Parsed, parse
from unmask.cli.options import OptionTable
from unmask.cli.yaml_file import Given
from unmask.errors import ConfigError

DOES = (
    "Run tasks of lm-evaluation-harness: generation and likelihood, for every kind of checkpoint and for adapters as "
    "they are. With --data_dir they read files of your own and need no network. An interrupted evaluation goes on with "
    "the same command where --output_path is given."
)
# a comma in brackets parts no options: a path may have some, and a list
_PARTS = re.compile(r"(?:\[[^\[\]]*\]|[^,])+")
# how dLLM writes a list of ids
_IDS = re.compile(r"\[[\d\s;]*\]")
# spelled in --model_args and --gen_kwargs, without effect here
_NOTHING = {"trust_remote_code": "no code of a checkpoint is run", "do_sample": ""}


@dataclass(frozen=True)
class EvalHarnessArguments:
    """What is asked"""

    tasks: list[str] | str | None = None
    """Tasks, groups and tags of the harness, separated by commas; also arc, ceval, math, humaneval-infilling. `list`
    prints all names."""
    num_fewshot: int | None = None
    """Examples before each question; null: the task's own number."""
    limit: float | None = None
    """Ask the first so many questions of each task, or below 1 that share of them."""
    data_dir: str | None = None
    """Folder of benchmarks' files, which are read instead of the Hub's; docs/evaluation.md lists them."""
    include_path: str | None = None
    """Folder of tasks of your own, as the harness' YAML files."""
    apply_chat_template: bool = False
    """Put prompts through the chat template."""
    fewshot_as_multiturn: bool | None = None
    """Examples are turns of the conversation; null: yes with the chat template."""
    system_instruction: str | None = None
    """A system message before everything."""
    allow_code_execution: bool = False
    """Tasks may run the programs that the model writes, in a sandbox; --confirm_run_unsafe_code means the same."""
    confirm_run_unsafe_code: bool = False
    """The harness' name of allow_code_execution."""


@dataclass(frozen=True)
class AnsweringArguments:
    """Who answers, and how"""

    model_name_or_path: str | None = None
    """Folder or Hub id of a checkpoint or an adapter."""
    adapter: str | None = None
    """Folder of a LoRA adapter to put on top."""
    model: str | None = None
    """Kind of the checkpoint, llada for example; checked against it where given."""
    model_args: str | None = None
    """Options of this command as the harness writes them: pretrained=DIR,mc_num=128,cfg=0.0; a flag of its own wins."""
    gen_kwargs: str | None = None
    """Options of generation in the same form: gen_length=256,block_length=32,steps=256; they win over the task's."""
    samples: int = 128
    """Masked copies per likelihood of a diffusion model, at most (mc_num)."""
    settle: float | None = None
    """Score a multiple choice until the best answer is ahead by so many standard errors, say 4; null: all copies."""
    is_check_greedy: bool = True
    """Also ask, for metrics that use it (accuracy of lambada), whether a target is what greedy decoding writes."""
    infill_tokens: str | None = None
    """humaneval-infilling: fill in what is missing between two texts with so many tokens: 8, 1-32 (the likeliest one)
    or oracle (as many as the right answer has); null: the harness' prompt, which asks for a continuation."""
    max_length: int | None = None
    """Tokens of prompt and answer together, at most; longer prompts lose their beginning, and it is said how many."""
    batch_size: int | str = "auto"
    """Rows of one forward; auto, or the harness' auto:N: 16, or max_batch_size. Changes no answer beyond rounding."""
    max_batch_size: int | None = None
    """Rows of one forward, at most."""
    device: str = "auto"
    """auto (a GPU where there is one), cpu, cuda or cuda:N."""
    dtype: str = "auto"
    """auto (as stored), float32, bfloat16 or float16."""
    load_in_4bit: bool = False
    """Hold the layers' matrices in 4 bits (NF4; needs the extra `quant`)."""
    load_in_8bit: bool = False
    """Hold the layers' matrices in 8 bits (needs the extra `quant`)."""
    compile: bool = False
    """Put the layers through torch.compile: the first forwards take longer, later ones less time."""


@dataclass(frozen=True)
class EvalOutputArguments:
    """What comes out"""

    output_path: str | None = None
    """Folder for results.json, results.md, the answers so far, and the harness' own files."""
    log_samples: bool = False
    """Write every question with its answer and scores to output_path."""
    fresh: bool = False
    """Ask everything again, though output_path has answers."""
    json: bool = False
    """Print the results as one JSON object."""


def table() -> OptionTable:
    """The options of the verb."""
    own = ("max_length",)
    how = (
        "How to generate, where the task does not say or the option is given; steps are max_new_tokens unless given",
        tuple(option for option in sampling.generation_options() if option.name not in own),
    )
    parts = (EvalHarnessArguments, AnsweringArguments, EvalOutputArguments)
    return OptionTable("eval", DOES, parts, (how,), (("max_new_tokens", None), ("block_size", None), ("steps", None)))


def read_arguments(argv: list[str]) -> Parsed | None:
    """Parse; what stands in --model_args and --gen_kwargs counts as given where no flag says otherwise.

    Raises:
        ConfigError: an unknown name or a value of another type, there too.
    """
    parsed = sampling.read_arguments(argv, table())
    if parsed is None:
        return None
    given, inner = parsed.given, [_inner(name, parsed[name]) for name in ("gen_kwargs", "model_args")]
    for told in inner:
        sampling.say_notes(told)
        given = told.given | given
    return replace(parsed, given=given)


def _inner(name: str, text: str | None) -> Parsed:
    """The options in a text such as pretrained=DIR,cfg=0.0, or in a JSON object."""
    found = _mapping(name, text)
    notes = [f"note: {key} has no effect ({why})" for key, why in _NOTHING.items() if key in found and why]
    samples = str(found.get("do_sample", "")).lower()
    if samples == "false":
        found["temperature"] = "0"
    if samples == "true":
        found.setdefault("temperature", "1")
    words = [f"--{key}={value}" for key, value in found.items() if key not in (*_NOTHING, "until")]
    stops = found.get("until") or []
    try:
        parsed = parse(words, table()) or Parsed(table())
    except ConfigError as error:
        raise ConfigError(f"--{name}: {error}") from None
    if stops:
        texts = (stops,) if isinstance(stops, str) else tuple(map(str, stops))
        parsed = parsed.put("stop", tuple(map(sampling.unescaped, texts)), Given("until", texts))
    given = {option: (value, replace(typed, where=f"--{name}:")) for option, (value, typed) in parsed.given.items()}
    return replace(parsed, given=given).noted(*notes)


def _mapping(name: str, text: str | None) -> dict[str, Any]:
    if not text or not text.strip():
        return {}
    if text.lstrip().startswith("{"):
        try:
            return dict(json.loads(text))
        except ValueError as error:
            raise ConfigError(f"--{name} is no JSON object: {error}.") from None
    pairs = [part.partition("=") for part in _PARTS.findall(text) if part.strip()]
    for key, equals, _ in pairs:
        if not equals:
            raise ConfigError(f'--{name}: "{key.strip()}" has no value. Write name=value,name=value.')
    return {key.strip(): _listed(value.strip()) for key, _, value in pairs}


def _listed(value: str) -> str:
    return value.replace(";", ",") if _IDS.fullmatch(value) else value
