"""One word for one thing, and nothing that executes or hides: names and calls that the source must not contain."""

from __future__ import annotations

import ast
import io
import re
import tokenize

# Words of the field that mean two things at once, or that have a clearer name here (DESIGN §6).
WORDS = {"gen_length", "mask_index", "move_chance", "nfe", "p_mask", "sigma", "transfer_index"}
# Files that may say them: the table that translates what users type.
TRANSLATORS = {"cli/aliases.py"}
# Names of rooms for whatever has no place.
ROOMS = {"common", "core", "helpers", "misc", "tools", "util", "utils"}
SERIALISERS = {"cloudpickle", "dill", "joblib", "marshal", "pickle", "shelve"}


def words(path: str, text: str) -> list[str]:
    """Forbidden words used as a name, or as a part of one (`nfe_total`)."""
    if path in TRANSLATORS:
        return []
    pattern = re.compile(rf"(?:^|_)({'|'.join(sorted(WORDS))})(?:_|$)")
    tokens = tokenize.generate_tokens(io.StringIO(text).readline)
    return [
        f'{path}:{token.start[0]} the word "{token.string}"'
        for token in tokens
        if token.type == tokenize.NAME and pattern.search(token.string)
    ]


def calls(path: str, text: str) -> list[str]:
    """Remote code, pickles, and handlers that swallow every error."""
    return [f"{path}:{node.lineno} {reason}" for node in ast.walk(ast.parse(text)) for reason in objections(node)]


def objections(node: ast.AST) -> list[str]:
    match node:
        case ast.Import(names=names):
            return [f"imports {name.name}" for name in names if name.name.split(".")[0] in SERIALISERS]
        case ast.ImportFrom(module=str(module)) if module.split(".")[0] in SERIALISERS:
            return [f"imports {module}"]
        case ast.Attribute(value=ast.Name(id="torch"), attr="load"):
            return ["torch.load reads pickles"]
        case ast.keyword(arg="trust_remote_code" | "allow_pickle" as name, value=value):
            return [] if isinstance(value, ast.Constant) and value.value is False else [f"{name} must be False"]
        case ast.Dict(keys=keys, values=values):
            return [
                "trust_remote_code must be False"
                for key, value in zip(keys, values, strict=True)
                if isinstance(key, ast.Constant) and key.value == "trust_remote_code"
                if isinstance(value, ast.Constant) and value.value is True
            ]
        case ast.ExceptHandler() if swallows(node):
            return ["catches every error"]
    return []


def swallows(handler: ast.ExceptHandler) -> bool:
    """Whether a handler catches errors that nobody foresaw. One that cleans up and raises on is let through."""
    kinds = handler.type.elts if isinstance(handler.type, ast.Tuple) else [handler.type]
    names = {"" if kind is None else getattr(kind, "id", None) for kind in kinds}
    cleans_up = isinstance(handler.body[-1], ast.Raise) and handler.body[-1].exc is None
    return "Exception" in names or (bool({"", "BaseException"} & names) and not cleans_up)


def rooms(path: str) -> list[str]:
    parts = path.removesuffix(".py").split("/")
    return [f'{path} the room "{part}"' for part in parts if part in ROOMS]


def objectionable(sources: dict[str, str]) -> list[str]:
    return [line for path, text in sources.items() for line in (*words(path, text), *calls(path, text), *rooms(path))]


def test_the_source_keeps_to_its_words(sources: dict[str, str]) -> None:
    assert not objectionable(sources)


def test_the_check_sees_each_kind() -> None:
    bad = {
        "a.py": "nfe_total = 1  # sigma\n",
        "b.py": "import pickle\nfrom joblib.numpy_pickle import load\n",
        "c.py": "import torch\ntorch.load('x')\n",
        "d.py": "f(trust_remote_code=True)\ng = {'trust_remote_code': True}\n",
        "e.py": "try:\n    f()\nexcept (OSError, Exception):\n    pass\n",
        "f.py": "try:\n    f()\nexcept:\n    pass\n",
        "data/utils.py": "",
    }
    good = {
        "cli/aliases.py": "ALIASES = dict(gen_length='max_new_tokens')\n",
        "g.py": "'''Not pickle, mask_index.'''\nf(trust_remote_code=False)\nmask_indexes = 1\n",
        "h.py": "try:\n    f()\nexcept OSError:\n    pass\nexcept BaseException:\n    g()\n    raise\n",
    }
    found = objectionable(bad)
    assert sorted({line.split(":")[0].split(" ")[0] for line in found}) == sorted(bad)
    assert len(found) == 9
    assert objectionable(good) == []
