"""The facts of a checkpoint live in its family's file: no token id of a known checkpoint stands anywhere else."""

from __future__ import annotations

import ast

# Special tokens (and the paddings of vocabularies) of the checkpoints that we load.
TOKEN_IDS = {
    # LLaDA: begin, end of text, header marks, end of turn, mask, rows of the embedding
    *(126080, 126081, 126336, 126346, 126347, 126348, 126464),
    # LLaDA-MoE, LLaDA2: begin, end of text, mask, turn marks, rows
    *(156891, 156892, 156893, 156895, 156898, 156900, 157184),
    # Qwen2 and Qwen3: end of text, turn marks; Dream: begin, mask; masks added to Qwen; rows
    *(151643, 151644, 151645, 151665, 151666, 151667, 151668, 151669, 151936, 152064),
    # Llama 3: begin, end of text, header marks, end of turn, rows
    *(128000, 128001, 128006, 128007, 128008, 128009, 128256),
}


def magic_ids(sources: dict[str, str]) -> list[str]:
    """`path:line id` of every token id outside the family files."""
    return [
        f"{path}:{node.lineno} {node.value}"
        for path, text in sources.items()
        if not path.startswith("models/families/")
        for node in ast.walk(ast.parse(text))
        if isinstance(node, ast.Constant) and isinstance(node.value, int) and node.value in TOKEN_IDS
    ]


def test_token_ids_stand_in_family_files_only(sources: dict[str, str]) -> None:
    assert not magic_ids(sources)


def test_the_check_sees_an_id() -> None:
    text = "# 126336\nname = '126336'\nmask = 126_336\n"
    assert magic_ids({"data/chat.py": text}) == ["data/chat.py:3 126336"]
    assert magic_ids({"models/families/llada.py": text}) == []
