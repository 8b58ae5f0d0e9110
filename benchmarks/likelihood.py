"""What likelihoods cost: forwards for the same error, and requests per second beside ZHZisZZ/dllm's evaluation.

Alone: the spread of a text's bound under a model that learned something, scored again and again with the same number of
noised copies, drawn in several ways. How many times fewer forwards a way needs for the first one's error is the
ratio of variances. `--peer`: questions with choices under random weights; each side scores the same pairs with the same
number of copies, in turns, on one thread. The questions are random ids, or with `--data_dir` those of real tasks, other
ones in each round. Times are CPU seconds, a ratio is the median over the rounds of theirs to ours.

`--settle`: real questions under a model that learned something; how many copies it takes until the best answer is ahead
by so many standard errors, and how often all copies, or those of another seed, would have said otherwise.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

HERE = Path(__file__).resolve().parent
SPECIAL = 4


@dataclass(frozen=True)
class Case:
    """Questions with choices, like those of a task: tokens of a question, of a choice, choices, questions.

    Of a real task it says the questions of a round, and nothing of tokens.
    """

    name: str
    model: str
    prompt: int = 0
    target: int = 0
    choices: int = 0
    questions: int = 1
    samples: int = 128


CASES = (
    Case("letters (MMLU, C-Eval)", "0.9M", 96, 1, 4, 4),
    Case("words (ARC, WinoGrande)", "0.9M", 48, 5, 4, 2),
    Case("sentences (HellaSwag, PIQA)", "0.9M", 64, 24, 4, 1),
    Case("a text of its own", "0.9M", 0, 128, 1, 1),
    Case("letters (MMLU, C-Eval)", "124M", 96, 1, 4, 1, 32),
    Case("sentences (HellaSwag, PIQA)", "124M", 64, 24, 4, 1, 32),
    Case("a text of its own", "124M", 0, 128, 1, 1, 32),
)
TASKS = (
    "mmlu_anatomy",
    "ceval-valid_law",
    "arc_easy",
    "arc_challenge",
    "winogrande",
    "piqa",
    "hellaswag",
    "lambada_openai",
)
REAL = tuple(Case(name, "124M", samples=32) for name in TASKS)
Pairs = list[tuple[list[int], list[int]]]


def real_questions(name: str, data_dir: Path, tokenizer: Any) -> list[Pairs]:
    """Every question of a task of the harness with its choices, as ids."""
    from unmask.evaluation.harness_tasks import find_tasks, load_tasks
    from unmask.lm.scoring import pair_ids

    chosen = load_tasks(find_tasks([name]), data_dir)
    task = chosen.by_name[name]
    task.build_all_requests(limit=64)
    questions: dict[int, Pairs] = {}
    for entry in task.instances:
        prompt, target = entry.args
        kept = prompt.rstrip()
        questions.setdefault(entry.doc_id, []).append(pair_ids(kept, prompt[len(kept) :] + target, tokenizer))
    return list(questions.values())


def pairs_of(case: Case, vocabulary: int, seed: int) -> Pairs:
    """Random questions, each with its choices."""
    chance = random.Random(seed)

    def ids(length: int) -> list[int]:
        return [chance.randrange(vocabulary - SPECIAL) for _ in range(length)]

    questions = [ids(case.prompt) for _ in range(case.questions)]
    return [(question, ids(case.target)) for question in questions for _ in range(case.choices)]


def compare(case: Case, sides: dict[str, Any], folder: Path, asked: list[Pairs]) -> dict[str, Any]:
    """Both sides in turns; the first pairs warm up, each further list is a round."""
    seconds: dict[str, list[float]] = {name: [] for name in sides}
    means: dict[str, list[float]] = {name: [] for name in sides}
    for number, pairs in enumerate(asked):
        job = {"folder": str(folder), "samples": case.samples, "seed": number, "batch_size": 32, "pairs": pairs}
        for name, side in sides.items():
            answer = side.ask(job)
            if number > 0:
                seconds[name].append(answer["seconds"])
                means[name].append(sum(answer["values"]) / len(answer["values"]))
    requests = sum(map(len, asked[1:])) / len(asked[1:])
    tokens = [sum(len(pair[side]) for pairs in asked[1:] for pair in pairs) for side in (0, 1)]
    ratio = median(theirs / ours for theirs, ours in zip(seconds["peer"], seconds["ours"], strict=True))
    rates = {name: round(requests / median(times), 2) for name, times in seconds.items()}
    nats = {name: round(sum(values) / len(values), 2) for name, values in means.items()}
    return {
        "case": case.name,
        "model": case.model,
        "samples": case.samples,
        "tokens": [round(total / requests / len(asked[1:]), 1) for total in tokens],
        "per_second": rates,
        "nats": nats,
        "ratio": ratio,
    }


def against_peer(asked: argparse.Namespace) -> None:
    """One line for each case."""
    from generate import Side
    from speed import models

    script, tokenizer = str(HERE / "speed/likelihood_side.py"), None
    peer = [asked.peer_python or sys.executable, script, asked.peer]
    sides = {"ours": Side([sys.executable, script], asked.core), "peer": Side(peer, asked.core)}
    if asked.data_dir:
        from transformers import AutoTokenizer

        tokenizer = AutoTokenizer.from_pretrained(asked.tokenizer)
    cases = REAL if asked.data_dir else CASES
    with tempfile.TemporaryDirectory() as folder:
        for case in cases:
            if asked.cases and case.name not in asked.cases:
                continue
            config = models.CONFIGS[case.model]
            made = models.write(Path(folder) / case.model, config)
            pairs = [pairs_of(case, config["vocab_size"], number) for number in range(asked.rounds + 1)]
            if asked.data_dir:
                questions = real_questions(case.name, asked.data_dir, tokenizer)
                of_round = [questions[number :: asked.rounds + 1] for number in range(asked.rounds + 1)]
                pairs = [[pair for question in mine[: case.questions] for pair in question] for mine in of_round]
            print(json.dumps(compare(case, sides, made, pairs)), flush=True)
    for side in sides.values():
        side.close()


def spread(model: str, text: Path | None, length: int, samples: int, seeds: int) -> None:
    """Standard deviations of one text's bound at equal forwards."""
    import torch

    import unmask
    from evaluation import interval
    from unmask.diffusion.schedules import Linear
    from unmask.diffusion.weights import elbo_weight
    from unmask.objectives.estimators import LikelihoodEstimator, masked_nll_sums

    torch.set_num_threads(1)
    lm = unmask.load(model, device="cpu", dtype="float32")
    root = HERE.parent
    files = [text] if text else [root / "README.md", *sorted((root / "docs").glob("*.md"))]
    words = "\n".join(file.read_text(encoding="utf-8") for file in files)
    x0_L = torch.tensor(lm.tokenizer(words, add_special_tokens=False)["input_ids"][:length])
    mask, network = lm.model.mask_token_id, lm.model.eval()

    def independent(seed: int) -> float:
        generator = torch.Generator().manual_seed(seed)
        t_S = torch.rand(samples, generator=generator).double()
        is_masked_SL = torch.rand(samples, length, generator=generator).double() < t_S[:, None]
        x0_SL = x0_L.expand(samples, -1)
        with torch.no_grad():
            chunks = [slice(start, start + 8) for start in range(0, samples, 8)]
            noised_SL = x0_SL.masked_fill(is_masked_SL, mask)
            sums = [masked_nll_sums(network, noised_SL[c], x0_SL[c], is_masked_SL[c]) for c in chunks]
        return -float((elbo_weight(Linear(), t_S) * torch.cat(sums)).mean())

    def estimated(method: str, seed: int, **settings: bool) -> float:
        estimator = LikelihoodEstimator(mask, samples, seed, 8, method=method, **settings)
        return estimator(network, x0_L[:0], x0_L).mean

    ways = {
        "independent times": independent,
        "spread times": lambda seed: estimated("bernoulli", seed),
        "exact counts": lambda seed: estimated("exact_count", seed, corrects=False),
        "exact counts, corrected": lambda seed: estimated("exact_count", seed),
    }
    first: Any = None
    for name, way in ways.items():
        values = torch.tensor([way(seed) for seed in range(seeds)], dtype=torch.float64)
        first = values if first is None else first
        found = {
            "tokens": length,
            "samples": samples,
            "way": name,
            "mean": float(values.mean()),
            "error": float(values.std()),
            "fewer_forwards": round(float(first.var() / values.var()), 1),
        }
        print(json.dumps({**found, "interval": interval(first, values)}), flush=True)


def real_contests(name: str, data_dir: Path, tokenizer: Any, limit: int) -> list[Any]:
    """The first questions of a task of the harness, each with what it compares."""
    from unmask.evaluation.harness_choices import comparisons
    from unmask.evaluation.harness_tasks import find_tasks, load_tasks
    from unmask.lm.scoring import pair_ids
    from unmask.objectives.settling import Contest

    task = load_tasks(find_tasks([name]), data_dir).by_name[name]
    task.build_all_requests(limit=limit)
    questions: dict[int, list[Any]] = {}
    for entry in task.instances:
        questions.setdefault(entry.doc_id, []).append(entry)
    found = []
    for entries in questions.values():
        asked = [
            (prompt.rstrip(), prompt[len(prompt.rstrip()) :] + target) for prompt, target in (e.args for e in entries)
        ]
        pairs = [pair_ids(*texts, tokenizer) for texts in asked]
        found.append(Contest(pairs, comparisons(task, entries[0].doc) or [[1.0] * len(pairs)]))
    return found


def settling(model: str, data_dir: Path, tasks: list[str], limit: int, samples: int, errors: list[float]) -> None:
    """One line for each task and number of standard errors."""
    import torch

    import unmask
    from unmask.objectives.estimators import LikelihoodEstimator
    from unmask.objectives.settling import Settling

    torch.set_num_threads(1)
    lm = unmask.load(model, device="cpu", dtype="float32")

    def verdicts(contests: list[Any], seed: int, enough: float) -> tuple[list[list[int]], float]:
        how, found, copies = LikelihoodEstimator(lm.model.mask_token_id, samples, seed, 16), {}, []
        for start in range(0, len(contests), 8):
            own = contests[start : start + 8]
            for number, each in Settling(how, enough).many(lm.model.eval(), own):
                scores = [
                    [one.mean / size for one, size in zip(each, sizes, strict=True)] for sizes in own[number].sizes
                ]
                found[start + number] = [row.index(max(row)) for row in scores]
                copies += [one.samples for one in each]
        return [found[number] for number in range(len(contests))], sum(copies) / len(copies)

    def differ(first: list[list[int]], second: list[list[int]]) -> float:
        pairs = [pair for one, other in zip(first, second, strict=True) for pair in zip(one, other, strict=True)]
        return round(100 * sum(one != other for one, other in pairs) / len(pairs), 2)

    for task in tasks:
        contests = real_contests(task, data_dir, lm.tokenizer, limit)
        every, _ = verdicts(contests, 0, float("inf"))
        told = {"task": task, "questions": len(contests), "samples": samples}
        print(json.dumps({**told, "other_seed_differs_percent": differ(every, verdicts(contests, 1, float("inf"))[0])}))
        for enough in errors:
            found, copies = verdicts(contests, 0, enough)
            line = {**told, "errors": enough, "copies": round(copies, 1), "differs_percent": differ(every, found)}
            print(json.dumps(line), flush=True)


# tokens that all questions begin with, of a question beside them, of an answer
ASKED = {
    "letters after examples (MMLU, 5)": (600, 80, 1),
    "sentences after examples (HellaSwag, 10)": (0, 800, 24),
    "sentences (HellaSwag)": (0, 80, 24),
    "words (ARC)": (0, 32, 5),
}


def against_itself(rounds: int) -> None:
    """One line for each kind of network and question."""
    import time

    import torch

    from unmask.models.facts import facts_of
    from unmask.models.shell import DiffusionModel
    from unmask.objectives.blockwise import BlockwiseEstimator
    from unmask.objectives.estimators import LikelihoodEstimator, causal_log_likelihoods
    from unmask.registry import FAMILIES

    torch.set_num_threads(1)
    size = {"vocab_size": 50_257, "hidden_size": 768, "num_hidden_layers": 12, "intermediate_size": 2048}
    size |= {"num_attention_heads": 12, "num_key_value_heads": 12, "head_dim": 64, "max_position_embeddings": 2048}
    blocks = {"attention": "block_causal", "block_size": 32, "mask_token_id": 50_256}
    for name, more in (("llama", {}), ("a2d-qwen3", blocks)):
        family = FAMILIES.get(name)
        official = {**family.tiny_config, "model_type": family.model_type, **size, **more, "tie_word_embeddings": True}
        model, generator = DiffusionModel(facts_of(official)).eval(), torch.Generator().manual_seed(0)
        for weight in model.parameters():
            torch.nn.init.normal_(weight, std=0.02 if weight.dim() > 1 else 1.0, generator=generator)

        def score(pairs: Pairs, shares: bool, network: Any = model, is_causal: bool = not more) -> float:
            began = time.process_time()
            if is_causal:
                list(causal_log_likelihoods(network, pairs, batch_size=16, shares=shares))
            else:
                how = LikelihoodEstimator(50_256, samples=32, batch_size=16)
                list(BlockwiseEstimator(how, 32, shares=shares).many(network, pairs))
            return time.process_time() - began

        for kind, (examples, prompt, target) in ASKED.items():
            chance = random.Random(0)
            begun, ratios = [chance.randrange(50_000) for _ in range(examples)], []
            for number in range(rounds):
                asked = pairs_of(Case(kind, "", prompt, target, 4, 4 if target == 1 else 1), 50_000, number)
                pairs = [([*begun, *question], answer) for question, answer in asked]
                ratios.append(score(pairs, False) / score(pairs, True))
            print(json.dumps({"model": name, "case": kind, "ratio": round(median(ratios), 2)}), flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="example:base", help="for the spread")
    parser.add_argument("--text", type=Path, help="a text file; default: this repository's README and pages")
    parser.add_argument("--lengths", type=int, nargs="*", default=[128, 512, 1024])
    parser.add_argument("--samples", type=int, default=32)
    parser.add_argument("--seeds", type=int, default=64)
    parser.add_argument("--peer", help="a checkout of ZHZisZZ/dllm")
    parser.add_argument("--peer_python", help="a Python in which it can be imported")
    parser.add_argument("--data_dir", type=Path, help="folder of benchmarks: ask the questions of real tasks")
    parser.add_argument("--tokenizer", help="folder of a tokenizer for them; its ids must fit into 126,460")
    parser.add_argument("--cases", nargs="*", help="names of some cases")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--core", type=int, help="pin both sides to this core")
    parser.add_argument("--prompts", action="store_true", help="what computing shared prompts once saves")
    parser.add_argument("--settle", type=float, nargs="*", help="standard errors by which the best answer is ahead")
    parser.add_argument("--limit", type=int, default=100, help="questions of each task, with --settle")
    asked = parser.parse_args()
    if asked.prompts:
        against_itself(asked.rounds)
    elif asked.settle:
        settling(asked.model, asked.data_dir, asked.cases or list(TASKS[2:7]), asked.limit, asked.samples, asked.settle)
    elif asked.peer:
        against_peer(asked)
    else:
        for length in asked.lengths:
            spread(asked.model, asked.text, length, asked.samples, asked.seeds)


if __name__ == "__main__":
    main()
