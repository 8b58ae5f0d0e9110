"""`unmask eval --tasks a,b`: tasks of lm-evaluation-harness. Checks what is asked and prints what was found."""

from __future__ import annotations

import json
import os
import re
import sys
import time
from collections.abc import Callable
from dataclasses import fields, replace
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from unmask.cli import sampling
from unmask.cli.config import Parsed, say
from unmask.cli.eval_harness_options import read_arguments
from unmask.errors import ConfigError, ResourceError
from unmask.generation.options import GenerationOptions

if TYPE_CHECKING:
    from unmask.evaluation.answering import Answerer
    from unmask.evaluation.harness import HarnessOptions
    from unmask.evaluation.harness_tasks import ChosenTasks
    from unmask.evaluation.sharing import Team
    from unmask.lm import DiffusionLM

EXAMPLES = """\
examples:
  unmask eval --tasks gsm8k,arc --model_name_or_path runs/sft --data_dir DATA --limit 100 --output_path runs/sft-eval
  unmask eval --tasks cmmlu --model llada --apply_chat_template --output_path OUT --log_samples \\
    --model_args "pretrained=DIR,mc_num=1,max_length=1024,steps=256,block_size=64,cfg=0.0"
  unmask eval --tasks list
"""
BATCH_SIZE = 16
_KINDS = {"generate": "texts", "fill": "blanks", "score": "log-likelihoods", "rolling": "texts scored"}


def run(argv: list[str]) -> int:
    """Run `unmask eval --tasks ...`."""
    parsed = read_arguments(argv)
    if parsed is None:
        print(EXAMPLES)
        return 0
    _check_harness(parsed)
    quieten()
    if _names(parsed) == ["list"]:
        from unmask.evaluation.harness_tasks import all_names

        print("\n".join(all_names()))
        return 0
    _check(parsed)
    return _evaluate(parsed)


def _names(parsed: Parsed) -> list[str]:
    return [parsed["tasks"]] if isinstance(parsed["tasks"], str) else list(parsed["tasks"])


def _check_harness(parsed: Parsed) -> None:
    if not parsed["tasks"]:
        raise ConfigError("--tasks is missing. Name some: --tasks gsm8k,arc_easy; --tasks list prints all.")
    if find_spec("lm_eval") is None:
        raise ResourceError('lm-evaluation-harness is not installed. Install it: pip install "unmask[eval]"')


def _check(parsed: Parsed) -> None:
    if not parsed["model_name_or_path"]:
        raise ConfigError(
            "no model is named. Give --model_name_or_path FOLDER_OR_HUB_ID, or pretrained=... in model_args."
        )
    for name in ("batch_size", "max_batch_size"):
        value = parsed[name]
        if isinstance(value, int) and value < 1:
            raise ConfigError(f"--{name} is {value}; it must be at least 1.")
    if isinstance(parsed["batch_size"], str) and not re.fullmatch(r"auto(:\d+)?", parsed["batch_size"]):
        raise ConfigError(f'--batch_size: "{parsed["batch_size"]}" is not a number of rows, nor auto.')
    if parsed["fresh"] and parsed["output_path"] is None:
        raise ConfigError("--fresh asks again what output_path has answers to; give --output_path.")
    if parsed["log_samples"] and parsed["output_path"] is None:
        raise ConfigError("--log_samples writes to output_path; give --output_path.")


def quieten() -> None:
    """No advice of libraries, no bars of theirs: progress is told in lines of our own."""
    os.environ.setdefault("TQDM_DISABLE", "1")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    # its errors of metrics are estimated in this process: model and threads do not survive a fork well
    os.environ.setdefault("DISABLE_MULTIPROC", "1")
    sampling.quieten()


def _evaluate(parsed: Parsed) -> int:
    from unmask.evaluation.answering import Answerer
    from unmask.evaluation.requests import Answers
    from unmask.evaluation.sharing import Team

    settings, options, folder = _settings(parsed), _harness_options(parsed), _folder(parsed)
    leads = os.environ.get("RANK", "0") == "0"
    chosen = _chosen(parsed, options) if leads else None
    lm = _loaded(parsed)
    team = Team()
    try:
        answers = Answers(folder, team.rank, fresh=parsed["fresh"])
        answerer = Answerer(lm, settings, answers, _teller(team) if leads else None)
        if chosen is None:
            team.follow(answerer.work)
        else:
            _report(parsed, chosen, answerer, options, team)
    finally:
        team.dismiss()
    return 0


def _settings(parsed: Parsed) -> Any:
    from unmask.evaluation.answering import AnswerSettings

    own = [entry.name for entry in fields(GenerationOptions) if entry.name not in ("max_length", "seed", "trace")]
    generation = {name: parsed[name] for name in own if name in parsed}
    size = parsed["batch_size"] if isinstance(parsed["batch_size"], int) else parsed["max_batch_size"] or BATCH_SIZE
    return AnswerSettings(
        generation=generation,
        samples=parsed["samples"],
        seed=parsed["seed"],
        batch_size=min(size, parsed["max_batch_size"] or size),
        max_length=parsed["max_length"],
        settle=parsed["settle"],
    )


def _harness_options(parsed: Parsed) -> HarnessOptions:
    from unmask.evaluation.harness import HarnessOptions

    told = {entry.name: parsed[entry.name] for entry in fields(HarnessOptions) if entry.name != "seed"}
    limit = parsed["limit"]
    told["limit"] = int(limit) if limit is not None and limit >= 1 else limit
    told["infill_tokens"] = _blanks(parsed["infill_tokens"])
    own_seed = {"seed": parsed["seed"]} if "seed" in parsed else {}
    return HarnessOptions(**told, **own_seed)


def _blanks(text: str | None) -> Any:
    if text is None or text == "oracle":
        return text
    least, _, most = text.partition("-")
    try:
        lengths = int(least), int(most or least)
    except ValueError:
        lengths = (0, 0)
    if not 1 <= lengths[0] <= lengths[1]:
        raise ConfigError(
            f'--infill_tokens is "{text}"; it can be a number such as 8, a range such as 1-32, or oracle.'
        )
    return lengths


def _folder(parsed: Parsed) -> Path | None:
    if parsed["output_path"] is None:
        return None
    folder = Path(parsed["output_path"]).expanduser()
    if folder.is_file() or folder.suffix == ".json":
        raise ConfigError(f"--output_path {folder} is to be a folder, which gets several files. Name a folder.")
    return folder


def _chosen(parsed: Parsed, options: HarnessOptions) -> ChosenTasks:
    """Names and consent first, which cost nothing; then whether there is such a model; then the tasks' data."""
    from unmask.evaluation.harness_demands import check_examples, check_meaning
    from unmask.evaluation.harness_tasks import find_tasks, load_tasks
    from unmask.models.folders import resolve_folder

    found = find_tasks(
        _names(parsed),
        include_path=parsed["include_path"],
        allow_code_execution=parsed["allow_code_execution"] or parsed["confirm_run_unsafe_code"],
    )
    resolve_folder(os.path.expanduser(parsed["model_name_or_path"]))
    chosen = load_tasks(found, None if parsed["data_dir"] is None else Path(parsed["data_dir"]).expanduser())
    tasks = chosen.by_name
    check_meaning(tasks, infills=options.infill_tokens is not None, settles=parsed["settle"] is not None)
    return replace(chosen, notes=[*chosen.notes, *check_examples(tasks, options.num_fewshot)])


def _loaded(parsed: Parsed) -> DiffusionLM:
    lm = sampling.load_model(parsed)
    if parsed["model"] not in (None, lm.family.name):
        raise ConfigError(f'--model is "{parsed["model"]}", but the checkpoint is of the family {lm.family.name}.')
    _check_length(parsed, lm.model.facts.shape.max_length)
    return lm


def _check_length(parsed: Parsed, most: int) -> None:
    """A harness string says it of many models; a flag is meant for this one."""
    asked = parsed["max_length"] or most
    if asked > most and parsed.given["max_length"][1].where:
        say((f"note: {parsed.label('max_length')} is {asked:,}; this model reads {most:,} tokens",))
    elif asked > most:
        raise ConfigError(f"--max_length is {asked:,}; this model reads at most {most:,} tokens. Leave it out.")


def _report(parsed: Parsed, chosen: ChosenTasks, answerer: Answerer, options: HarnessOptions, team: Team) -> None:
    """Evaluate, write, print."""
    from unmask.evaluation import report
    from unmask.evaluation.harness import evaluate_tasks
    from unmask.evaluation.harness_report import cases, result, write_cases

    folder, began = _folder(parsed), time.perf_counter()
    if not parsed["is_check_greedy"]:
        chosen = replace(chosen, greedy=frozenset())
    for line in chosen.notes:
        print(f"note: {line}", file=sys.stderr)
    name = parsed["model_name_or_path"]
    results = evaluate_tasks(answerer, chosen, options, name=name, output_path=folder, team=team)
    found = report.document(
        result(
            results,
            _names(parsed),
            report.model_facts(answerer.lm, name, parsed["adapter"]),
            answerer.settings,
            options,
            data=parsed["data_dir"] or "the Hub",
            seconds=round(time.perf_counter() - began, 1),
            notes=(*chosen.notes, *_notes(answerer)),
        )
    )
    if folder is not None:
        report.write(folder, found)
        write_cases(folder, cases(results))
    print(json.dumps(found, ensure_ascii=False, default=str) if parsed["json"] else report.page(found))


def _notes(answerer: Answerer) -> list[str]:
    notes = []
    if answerer.shortened:
        count = len(answerer.shortened)
        notes.append(f"Prompts that were too long for the model and lost their beginning: {count:,}.")
    if answerer.curtailed:
        wanted, given = min(answerer.curtailed.values(), key=lambda rooms: rooms[1])
        notes.append(
            "Answers with less room than their task asks for, so that prompts stay whole: "
            f"{len(answerer.curtailed):,}; the least is {given:,} of {wanted:,} tokens. --max_new_tokens gives all the "
            "same."
        )
    if answerer.ignored:
        notes.append(f"Settings of tasks without meaning here: {', '.join(sorted(answerer.ignored))}.")
    if answerer.copies:
        mean = sum(answerer.copies.values()) / len(answerer.copies)
        most = answerer.settings.samples
        notes.append(f"Answers were scored until the best was settled: {mean:.1f} copies of each, of {most:,} at most.")
    return notes


def _teller(team: Team) -> Callable[[str, int, int], None]:
    """Says how far it is, a line for every tenth, with the time that is left."""
    began: dict[str, tuple[float, int, int]] = {}
    whose = f" of this process, 1 of {team.size}" if team.size > 1 else ""

    def tell(kind: str, done: int, total: int) -> None:
        if kind not in began or done < began[kind][1]:
            began[kind] = (time.perf_counter(), done, 10 * done // total)
            if done:
                print(f"{done:,} of {total:,} {_KINDS[kind]} were there before", file=sys.stderr)
        start, first, said = began[kind]
        if 10 * done // total > said:
            began[kind] = (start, first, 10 * done // total)
            seconds = time.perf_counter() - start
            left = seconds / (done - first) * (total - done)
            print(f"{done:,} of {total:,} {_KINDS[kind]}{whose}, {seconds:.0f} s, {left:.0f} s left", file=sys.stderr)

    return tell
