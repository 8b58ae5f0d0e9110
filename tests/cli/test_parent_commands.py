"""Every documented training command and configuration file of the parent systems, parsed with `--dry_run`.

The commands differ from the documented ones in what starts them alone: `accelerate launch ... examples/llada/sft.py`
has become `unmask sft`. They are split by the rules of a shell; the YAML files are unchanged.

The page `docs/coming_from.md` is held to the same: it shows these very commands, explains every option of theirs that
we lack, and each of ours on it is accepted.
"""

from __future__ import annotations

import io
import re
import shlex
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import huggingface_hub
import pytest
from huggingface_hub.errors import LocalEntryNotFoundError

from tests.architecture.test_docs import Block, blocks, commands
from unmask.cli.main import main
from unmask.training.arguments import Settings

S0 = r"""
--model_name_or_path "/path/to/your/LLaDA-8B-Instruct" --output_dir "models/llada_table_lora_run" \
--dataset_args "data/table_llada_train.jsonl" --num_train_epochs 3 --per_device_train_batch_size 2 \
--gradient_accumulation_steps 4 --learning_rate 2e-4 --load_in_4bit False --lora True --bf16 True \
--logging_steps 1 --save_strategy "epoch"
"""
S0_REPO = r"""
--model_name_or_path "/path/to/your/LLaDA-8B-Instruct" --output_dir "models/llada_table_lora_run" \
--dataset_args "data/table_llada_train.jsonl" --num_train_epochs 3 --per_device_train_batch_size 2 \
--gradient_accumulation_steps 4 --lora True --bf16 True --logging_steps 1 \
--eval_dataset_args "data/table_llada_train_test.jsonl" --per_device_eval_batch_size 2 --learning_rate 1e-4 \
--load_in_4bit True --save_strategy "steps" --save_steps 500 --eval_strategy "steps" --eval_steps 5 --max_length 4096
"""
S1_SFT_YAML = """\
model_name: "GSAI-ML/LLaDA-8B-Instruct"
local_batch_size: 1
max_length: 4096
num_epochs: 20
learning_rate: 1e-5
grad_accum_steps: 1
output_dir: "./sft_save"          # run folder = output_dir/job_name
job_name: "llada-sft"
train_data: "simplescaling/s1K"   # or a local .json list
max_grad_norm: 1.0                # from here on: repo
weight_decay: 0.1
evaluation_strategy: "steps"
eval_steps: 100
logging_steps: 10
save_steps: 100
save_total_limit: 20
load_best_model_at_end: true
bf16: true
report_to: "none"
remove_unused_columns: false
"""
S1_LORA_YAML = """\
rank: 32
lora_alpha: 256
target_modules: [q_proj, k_proj, v_proj]
lora_dropout: 0.05
bias: "none"
task_type: "CAUSAL_LM"
"""
S2_SFT = r"""
--model_name_or_path "GSAI-ML/LLaDA-8B-Base" --dataset_args "allenai/tulu-3-sft-mixture[train:10000,test:1000]" \
--output_dir "models/LLaDA-8B-SFT/tulu-3-sft-mixture[train:10000,test:1000]" --max_length 1024 --num_train_epochs 4
"""
S2_PT = (
    '--model_name_or_path "GSAI-ML/LLaDA-8B-Base" '
    '--dataset_args "mlfoundations/dclm-baseline-1.0[train:10_000_000,test:10_000]" '
    '--output_dir "models/LLaDA-8B-Base/dclm-baseline-1.0[train:10_000_000,test:10_000]" '
    "--max_length 1024 --max_steps 10000"
)
S2_SFT_OF_PT = (
    '--model_name_or_path "models/LLaDA-8B-Base/dclm-baseline-1.0[train:10_000_000,test:10_000]" '
    '--dataset_args "allenai/tulu-3-sft-mixture[train:10000,test:1000]" '
    '--output_dir "models/LLaDA-8B-SFT/tulu-3-sft-mixture[train:10000,test:1000]" --max_length 1024'
)
S3_PT_YAML = """\
model_name_or_path: data/llada-100M
dataset_args: data/data/c4-en-shuffled[train:1000_000,test:1000]
text_field: text
streaming: false
num_proc: 8
drop_tail: true
max_length: 1024
load_preprocessed_data: true
insert_eos: true
random_length_ratio: 0.01
output_dir: data/output/llada-pt-c4-500Mtokens-epoch-1
run_name: llada-pt-c4-500Mtokens-epoch-1
learning_rate: 3.0e-4
warmup_steps: 2000
# num_train_epochs: 1
max_steps: 10
per_device_train_batch_size: 2
per_device_eval_batch_size: 2
gradient_accumulation_steps: 8
logging_steps: 20
eval_strategy: steps
eval_steps: 200
save_steps: 1000
save_total_limit: 2
"""
S3_SFT_YAML = """\
model_name_or_path: data/llada-8b
lora: true
target_modules: all-linear
r: 32
lora_alpha: 64
lora_dropout: 0.05
dataset_args: data/data/alpaca-zh-gpt[train:2000,test:200]
num_proc: 8
max_length: 1024
load_preprocessed_data: true
output_dir: data/output/llada-gpu1-epoch-test
report_to: swanlab               # project name from SWANLAB_PROJECT
run_name: llada-alpaca-zh-epoch-test
learning_rate: 3.0e-4
warmup_ratio: 0.1
max_steps: 10
per_device_train_batch_size: 2
per_device_eval_batch_size: 2
gradient_accumulation_steps: 8
logging_steps: 2
eval_strategy: steps
eval_steps: 200
save_steps: 1000
save_total_limit: 2
"""
S3_QWEN_YAML = """\
model_name_or_path: data/Qwen/qwen2.5-7b-base
dtype: bfloat16
lora: true
target_modules: all-linear
r: 32
lora_alpha: 64
lora_dropout: 0.05
dataset_args: data/data/alpaca-zh-gpt[train:2000,test:200]
disable_caching: false
max_length: 1024
truncation: right
num_proc: 8
output_dir: data/output/qwen-test
report_to: swanlab
run_name: qwen-test
seed: 42
per_device_train_batch_size: 2
per_device_eval_batch_size: 2
gradient_accumulation_steps: 8
learning_rate: 2.0e-5
lr_scheduler_type: cosine
warmup_ratio: 0.1
bf16: true
max_steps: 10
logging_steps: 10
eval_on_start: false
eval_strategy: steps
eval_steps: 100
save_steps: 100
save_only_model: true
save_total_limit: 2
"""
S3_QWEN_PT_YAML = "".join(
    {
        "insert_eos: true\n": "insert_eos: false\n",
        "model_name_or_path: data/llada-100M\n": "model_name_or_path: q\n",
    }.get(line, line)
    for line in S3_PT_YAML.splitlines(keepends=True)
    if not line.startswith(("load_preprocessed_data", "random_length_ratio"))
)
S4 = {
    "txt": (
        'pretrain --model_name_or_path mistralai/Mistral-7B-v0.1 --txt_files "data/*.txt" --process_data '
        "--mode pretrain --output_dir ./output"
    ),
    "hub": (
        'pretrain --model_name_or_path mistralai/Mistral-7B-v0.1 --hf_dataset "wikitext/wikitext-2-v1" '
        '--hf_text_column "text" --process_data --mode pretrain --output_dir ./output'
    ),
    "example": (
        "pretrain --model_name_or_path Locutusque/TinyMistral-248M --create_example_data --process_data "
        "--mode pretrain --batch_size 4 --epochs 1 --max_seq_length 512 --output_dir ./output"
    ),
    "pretrain": r"""
pretrain --model_name_or_path mistralai/Mistral-7B-v0.1 --mode pretrain --txt_files "data/*.txt" --batch_size 8 \
  --epochs 3 --learning_rate 5e-5 --max_seq_length 2048 --activation_checkpointing \
  --checkpointing_strategy one_in_four --bf16 --output_dir ./output""",
    "sft": r"""
sft --model_name_or_path mistralai/Mistral-7B-v0.1 --mode sft --sft_json "data/conversations.json" --batch_size 8 \
  --epochs 3 --learning_rate 2e-5 --max_seq_length 2048 --activation_checkpointing \
  --checkpointing_strategy one_in_four --bf16 --output_dir ./output""",
}

Run = Callable[..., Settings]


def argv_of(command: str) -> list[str]:
    """The arguments that a shell makes of it; a backslash before a line's end joins the lines."""
    return shlex.split(command.replace("\\\n", " "))


def chosen(settings: Settings, **expected: Any) -> None:
    """Assert that a setting, wherever it lives, has the expected value and type."""
    everything = {
        **vars(settings.model),
        **vars(settings.data),
        **vars(settings.objective),
        **vars(settings.run),
        **settings.trainer,
    }
    for name, value in expected.items():
        assert everything[name] == value, name
        assert type(everything[name]) is type(value), name


def test_table_sft_with_lora(settings_of: Run) -> None:
    settings = settings_of("sft", *argv_of(S0))
    chosen(
        settings,
        model_name_or_path="/path/to/your/LLaDA-8B-Instruct",
        output_dir="models/llada_table_lora_run",
        dataset_args="data/table_llada_train.jsonl",
        num_train_epochs=3.0,
        per_device_train_batch_size=2,
        gradient_accumulation_steps=4,
        learning_rate=2e-4,
        load_in_4bit=False,
        lora=True,
        bf16=True,
        logging_steps=1,
        save_strategy="epoch",
    )


def test_table_sft_as_the_repository_runs_it(settings_of: Run) -> None:
    settings = settings_of("sft", *argv_of(S0_REPO))
    chosen(
        settings,
        eval_dataset_args="data/table_llada_train_test.jsonl",
        load_in_4bit=True,
        eval_strategy="steps",
        eval_steps=5,
        save_steps=500,
        max_length=4096,
    )


def test_a_backslash_followed_by_a_space_is_no_argument(settings_of: Run) -> None:
    for broken in (S0.replace("\\\n", "\\ \n"), S0.replace("--bf16 True \\\n", "--bf16 \\ \n")):
        assert " " in argv_of(broken)
        chosen(settings_of("sft", *argv_of(broken)), lora=True, bf16=True, save_strategy="epoch")


def write(name: str, text: str) -> str:
    path = Path(name)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    return name


def test_dllm_factory_sft_config(settings_of: Run, capsys: pytest.CaptureFixture[str]) -> None:
    settings = settings_of("sft", "--config", write("config/sft/default_config.yaml", S1_SFT_YAML))
    chosen(
        settings,
        model_name_or_path="GSAI-ML/LLaDA-8B-Instruct",
        per_device_train_batch_size=1,
        max_length=4096,
        num_train_epochs=20.0,
        learning_rate=1e-5,
        gradient_accumulation_steps=1,
        output_dir="./sft_save/llada-sft",
        run_name="llada-sft",
        dataset_args="simplescaling/s1K",
        weight_decay=0.1,
        eval_strategy="steps",
        load_best_model_at_end=True,
        report_to="none",
        lora=False,
    )
    notes = capsys.readouterr().err.splitlines()
    for name in ("model_name", "local_batch_size", "num_epochs", "grad_accum_steps", "job_name", "train_data"):
        assert sum(line.startswith(f"note: {name} is read as") for line in notes) == 1, name
    assert sum(line.startswith("note: remove_unused_columns has no effect") for line in notes) == 1


def test_dllm_factory_lora_config_turns_the_adapter_on(settings_of: Run, capsys: pytest.CaptureFixture[str]) -> None:
    full = write("config/sft/default_config.yaml", S1_SFT_YAML)
    lora = write("config/lora/default_config.yaml", S1_LORA_YAML)
    for first, second in (("--config", "--config"), ("--train_config_path", "--lora_config_path")):
        settings = settings_of("sft", first, full, second, lora)
        chosen(settings, lora=True, r=32, lora_alpha=256, lora_dropout=0.05, bias="none")
        assert settings.model.target_modules == ["q_proj", "k_proj", "v_proj"]
    assert "note: task_type has no effect" in capsys.readouterr().err
    settings = settings_of("sft", "--config", lora, "--model_name_or_path", "m", "--dataset_args", "d.json")
    chosen(settings, lora=True, r=32)
    chosen(settings_of("sft", "--config", full, "--config", lora, "--enable_lora"), lora=True)


def test_nested_sections_lose_their_names(settings_of: Run) -> None:
    nested = "training:\n" + "".join(f"  {line}\n" for line in S1_SFT_YAML.splitlines())
    nested += "lora_settings:\n" + "".join(f"  {line}\n" for line in S1_LORA_YAML.splitlines())
    settings = settings_of("sft", "--config", write("nested.yaml", nested))
    chosen(settings, learning_rate=1e-5, output_dir="./sft_save/llada-sft", r=32, lora=True)


def test_dllm_sft(settings_of: Run) -> None:
    chosen(
        settings_of("sft", *argv_of(S2_SFT)),
        dataset_args="allenai/tulu-3-sft-mixture[train:10000,test:1000]",
        output_dir="models/LLaDA-8B-SFT/tulu-3-sft-mixture[train:10000,test:1000]",
        num_train_epochs=4.0,
        eval_strategy="steps",
    )


def test_dllm_pretrain_from_scratch(settings_of: Run) -> None:
    chosen(
        settings_of("pretrain", *argv_of(S2_PT), "--from_scratch"),
        dataset_args="mlfoundations/dclm-baseline-1.0[train:10_000_000,test:10_000]",
        max_steps=10000,
        from_scratch=True,
    )


def test_a_run_folder_with_brackets_is_a_model(settings_of: Run) -> None:
    chosen(
        settings_of("sft", *argv_of(S2_SFT_OF_PT)),
        model_name_or_path="models/LLaDA-8B-Base/dclm-baseline-1.0[train:10_000_000,test:10_000]",
    )


def test_tutorial_pretraining_file(settings_of: Run) -> None:
    settings = settings_of("pretrain", "--configs", write("configs/llada-100M-pt.yaml", S3_PT_YAML))
    chosen(
        settings,
        model_name_or_path="data/llada-100M",
        dataset_args="data/data/c4-en-shuffled[train:1000_000,test:1000]",
        streaming=False,
        load_preprocessed_data=True,
        random_length_ratio=0.01,
        learning_rate=3e-4,
        warmup_steps=2000,
        max_steps=10,
        eval_steps=200,
        save_total_limit=2,
        run_name="llada-pt-c4-500Mtokens-epoch-1",
    )


def test_tutorial_sft_file(settings_of: Run, capsys: pytest.CaptureFixture[str]) -> None:
    settings = settings_of("sft", "--configs", write("configs/llada-8b-sft.yaml", S3_SFT_YAML))
    chosen(
        settings,
        lora=True,
        r=32,
        lora_alpha=64,
        target_modules="all-linear",
        report_to="swanlab",
        learning_rate=3e-4,
        warmup_steps=0.1,
        load_preprocessed_data=True,
    )
    assert "warmup_ratio" not in settings.trainer
    assert "note: warmup_ratio is read as warmup_steps" in capsys.readouterr().err


def test_tutorial_baseline_files(settings_of: Run, capsys: pytest.CaptureFixture[str]) -> None:
    settings = settings_of("sft", "--configs", write("configs/qwen2.5-7b-alpaca.yaml", S3_QWEN_YAML))
    chosen(settings, dtype="bfloat16", truncation="right", save_only_model=True, eval_on_start=False, seed=42)
    assert "note: disable_caching has no effect" in capsys.readouterr().err
    settings = settings_of("pretrain", "--configs", write("configs/qwen2.5-100M-pt.yaml", S3_QWEN_PT_YAML))
    chosen(settings, insert_eos=False, load_preprocessed_data=False, random_length_ratio=0.0, model_name_or_path="q")


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("txt", {"dataset_args": "data/*.txt", "overwrite_cache": True, "output_dir": "./output"}),
        ("hub", {"dataset_args": "wikitext/wikitext-2-v1", "text_field": "text", "overwrite_cache": True}),
        (
            "example",
            {"overwrite_cache": True, "per_device_train_batch_size": 4, "num_train_epochs": 1.0, "max_length": 512},
        ),
        ("pretrain", {"learning_rate": 5e-5, "gradient_checkpointing": True, "bf16": True, "max_length": 2048}),
        ("sft", {"dataset_args": "data/conversations.json", "checkpointing_strategy": "one_in_four"}),
    ],
)
def test_mistral_to_llada(settings_of: Run, name: str, expected: dict[str, Any]) -> None:
    verb, *argv = argv_of(S4[name])
    chosen(settings_of(verb, *argv), **expected)


def test_mistral_to_llada_in_half_precision(settings_of: Run) -> None:
    verb, *argv = argv_of(S4["sft"].replace("--bf16", "--fp16"))
    chosen(settings_of(verb, *argv), fp16=True)


def test_hidden_defaults_of_mistral_to_llada(settings_of: Run) -> None:
    extra = argv_of("--weight_decay .01 --warmup_ratio .1 --gradient_accumulation_steps 8 --seed 42")
    verb, *argv = argv_of(S4["sft"])
    chosen(settings_of(verb, *argv, *extra), weight_decay=0.01, warmup_steps=0.1, seed=42)


PAGE = (Path(__file__).parents[2] / "docs" / "coming_from.md").read_text(encoding="utf-8")
SECTIONS = {
    f"{system.splitlines()[0]}: {part.splitlines()[0]}": part
    for system in PAGE.split("\n## ")[1:]
    for part in system.split("\n### ")[1:]
}
FILES = {
    "config/sft/default_config.yaml": S1_SFT_YAML,
    "config/lora/default_config.yaml": S1_LORA_YAML,
    "your_config.yaml": S1_SFT_YAML,
    "configs/llada-100M-pt.yaml": S3_PT_YAML,
    "configs/llada-8b-sft.yaml": S3_SFT_YAML,
    "configs/qwen2.5-7b-alpaca.yaml": S3_QWEN_YAML,
    "configs/qwen2.5-100M-pt.yaml": S3_QWEN_PT_YAML,
}
# words of launchers, not of the scripts that they start
LAUNCHERS = {
    "--config_file",
    "--num_processes",
    "--nodes",
    "--gres",
    "--accelerate_config",
    "--script_path",
    "--script_args",
}
OPTION = re.compile(r"(?<![\w-])--[a-z]\w*")


def ours(section: str) -> list[list[str]]:
    """The words after `unmask` of each command in a section, those given to the Slurm script too."""
    found = []
    for block in blocks(section):
        if block.language == "bash":
            found += commands(block)
            found += [[verb_of(block), *args] for args in script_args(block.body)]
    return found


def there(section: str) -> Iterator[list[str]]:
    """The arguments of each old script in a section."""
    for block in blocks(section):
        if block.language == "text":
            yield from script_args(block.body)
            for line in block.body.replace("\\\n", " ").splitlines():
                words = shlex.split(line)
                scripts = [place for place, word in enumerate(words) if word.endswith((".py", ".sh"))]
                yield words[scripts[-1] + 1 :] if scripts else []


def script_args(text: str) -> list[list[str]]:
    return [shlex.split(found) for found in re.findall(r"--script_args '([^']*)'", text)]


def verb_of(block: Block) -> str:
    return "pretrain" if "examples/llada/pt.py" in block.body else "sft"


@pytest.mark.parametrize("title", SECTIONS)
def test_every_option_of_an_old_command_is_ours_or_explained(title: str) -> None:
    shown = {"text": "", "bash": ""}
    for block in blocks(SECTIONS[title]):
        shown[block.language] += block.body
    system = "".join(part for name, part in SECTIONS.items() if name.split(":")[0] == title.split(":")[0])
    explained = OPTION.findall(re.sub(r"```.*?```", "", system, flags=re.DOTALL))
    lost = set(OPTION.findall(shown["text"])) - LAUNCHERS - {*OPTION.findall(shown["bash"]), *explained}
    assert not lost


@pytest.mark.parametrize("title", SECTIONS)
def test_every_command_of_ours_is_accepted(
    title: str, settings_of: Run, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The training verbs come to settings; the others get as far as missing the model or the data."""

    def unreachable(*_: object, **__: object) -> str:
        raise LocalEntryNotFoundError("offline")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", unreachable)
    monkeypatch.setattr("sys.stdin", io.StringIO())
    for name, text in FILES.items():
        write(name, text)
    for verb, *argv in ours(SECTIONS[title]):
        argv = [word for word in argv if word != "--debug"]
        if verb in ("sft", "pretrain"):
            settings_of(verb, *argv)
            continue
        assert main([verb, *argv]) == 2
        told = r'no folder "|holds no|there is no file|no such file|no file|harness is not installed'
        assert re.search(told, capsys.readouterr().err)


@pytest.mark.parametrize("command", [S0, S0_REPO, S2_SFT, S2_PT, *(text.split(maxsplit=1)[1] for text in S4.values())])
def test_the_page_shows_the_commands_that_are_tested_here(command: str) -> None:
    shown = [words for section in SECTIONS.values() for words in there(section)]
    assert argv_of(command) in shown


def test_the_page_has_every_script_and_option_of_the_documentation(shared: Path) -> None:
    documented = (shared / "reference" / "commands.md").read_text(encoding="utf-8")
    typed = "\n".join(re.findall(r"```bash\n(.*?)```", documented, re.DOTALL))
    options, scripts = set(OPTION.findall(typed)), set(re.findall(r"[\w-]+\.(?:py|sh|yaml)\b", typed))
    assert len(options) > 50 and len(scripts) > 15
    assert not {option for option in options if not re.search(rf"{option}\b", PAGE)}
    assert not {script for script in scripts if script not in PAGE}
