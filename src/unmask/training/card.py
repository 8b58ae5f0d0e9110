"""The model card that a run writes beside its weights: recipe, data, schedule, figures, and the command itself."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from unmask.data.spec import parse_dataset_args
from unmask.models.adapters import has_adapter
from unmask.models.card import Card, is_hub_id, table, write_card
from unmask.training.arguments import Settings
from unmask.training.report_facts import Facts, Material


@dataclass(frozen=True)
class Reached:
    """How far a run had come when its card was written: updates done, and what it had reported."""

    step: int
    history: Sequence[dict[str, float]]


def write_run_card(folder: Path, material: Material, facts: Facts, reached: Reached) -> None:
    """Write `README.md` into `folder`, for a finished model and for a checkpoint on the way alike."""
    settings = material.settings
    base = str(settings.model.model_name_or_path)
    said = {"sft": "Fine-tuned", "pretrain": "Pretrained"}[material.verb]
    how = "from the configuration of" if material.parts.from_scratch else "from"
    summary = f"{said} with `unmask` {how} `{base}` on `{settings.data.dataset_args}`."
    if reached.step < material.updates:
        summary += f" A checkpoint on the way: update {reached.step:,} of {material.updates:,}."
    sections = [("Figures", table(_figures(reached, facts)))]
    sections += [(title, table(rows)) for title, rows in facts.panels]
    sections.append(("The same run again", f"```bash\n{facts.command}\n```"))
    sections.append(("All settings", f"```json\n{_settings_json(settings)}\n```"))
    card = Card(
        title=facts.title,
        summary=summary,
        family=material.model.family.name,
        base=base,
        is_adapter=has_adapter(material.model),
        datasets=_hub_datasets(settings),
        sections=tuple(sections),
        block_size=material.model.facts.block_size,
    )
    write_card(folder, card)


def _figures(reached: Reached, facts: Facts) -> list[tuple[str, str]]:
    """The last value of each figure, and the step it was reported at."""
    names = {
        "eval_nll": "bound on rows not trained on, nats per token",
        "nll": "bound in training, nats per token",
        "tokens_per_second": "tokens per second in training",
    }
    rows = [
        ("updates", f"{reached.step:,}"),
        ("weights, of which trained", f"{facts.parameters:,}, {facts.trainable:,}"),
    ]
    for name, said in names.items():
        line = next((line for line in reversed(reached.history) if name in line), None)
        if line is not None:
            value = f"{line[name]:,.0f}" if name == "tokens_per_second" else f"{line[name]:.4f}"
            rows.append((said, f"{value} at update {int(line['step']):,}"))
    if facts.yardstick is not None:
        rows.append(("counting tokens alone, nats per token", f"{facts.yardstick:.4f}"))
    return rows


def _hub_datasets(settings: Settings) -> tuple[str, ...]:
    specs = parse_dataset_args(settings.data.dataset_args) if settings.data.dataset_args else []
    return tuple(dict.fromkeys(spec.path for spec in specs if is_hub_id(spec.path)))


def _settings_json(settings: Settings) -> str:
    """Secrets are not part of the settings: the library's tokens are refused, and left out once more here."""
    trainer = {name: value for name, value in settings.trainer.items() if "token" not in name}
    shown = {
        **{name: part for name, part in asdict(settings).items() if name not in ("trainer", "left_open")},
        "trainer": trainer,
    }
    return json.dumps(shown, indent=2, sort_keys=True, default=str, ensure_ascii=False)
