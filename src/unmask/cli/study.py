"""`unmask study`: diffusion against autoregressive where data are few. Parsing and printing."""

from __future__ import annotations

import json
import os
import sys

from unmask.cli.config import parse, say
from unmask.cli.options import OptionTable
from unmask.errors import ConfigError
from unmask.evaluation.study_options import StudyArguments

DOES = (
    "Train one small network on the same few tokens with both objectives, autoregressive and masked, for up to "
    "hundreds of epochs; evaluate both on the same held-out text; draw loss over epochs and compute, and say where the "
    "curves cross. The same command goes on after an interruption."
)
EXAMPLES = """\
examples:
  unmask study --config recipe:data_constrained --dataset_args "stories.txt[test:100]" --output_dir runs/study
  unmask study --config recipe:data_constrained --unique_tokens 25000,100000 --num_train_epochs 64
"""


def run(argv: list[str]) -> int:
    """Run `unmask study`."""
    parsed = parse(argv, OptionTable("study", DOES, (StudyArguments,)))
    if parsed is None:
        print(EXAMPLES)
        return 0
    say(parsed.notes)
    chosen = parsed.build(StudyArguments)
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise ConfigError("study runs in one process. Start it without accelerate launch or torchrun.")
    from datasets import disable_progress_bars

    from unmask.evaluation import report, study

    disable_progress_bars()
    found = study.run_study(chosen, lambda line: print(line, file=sys.stderr, flush=True))
    print(json.dumps(found) if chosen.json else report.page(found))
    return 0
