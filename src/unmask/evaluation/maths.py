"""Answers out of a model's text, and whether they are right: word problems, competition mathematics, sudoku, countdown.

Texts in, numbers out; knows no model, no file, and runs nothing that it reads.
"""

from __future__ import annotations

import ast
import operator
import re
from collections import Counter
from collections.abc import Callable, Sequence
from fractions import Fraction

_BOXES = ("\\boxed", "\\fbox")
_NUMBER = re.compile(r"-?\d[\d,]*\.?\d*|-?\.\d+")


def last_box(text: str) -> str | None:
    """What the last `\\boxed{...}` of a text holds, braces inside it matched; None: there is none, or it is cut off."""
    found = boxes(text)
    return found[-1] if found else None


def boxes(text: str) -> list[str]:
    """What each closed `\\boxed{...}` or `\\boxed x` holds, in order."""
    starts = [
        match for name in _BOXES for match in re.finditer(re.escape(name) + r"\s*\{|" + re.escape(name) + " ", text)
    ]
    contents = []
    for match in sorted(starts, key=re.Match.start):
        if match.group().endswith("{"):
            end = _closing(text, match.end())
            contents += [] if end is None else [text[match.end() : end]]
        else:
            contents.append(re.split(r"[\s$]", text[match.end() :], maxsplit=1)[0])
    return contents


def _closing(text: str, start: int) -> int | None:
    """Where the brace closes that opened just before `start`."""
    depth = 1
    for place in range(start, len(text)):
        depth += {"{": 1, "}": -1}.get(text[place], 0)
        if depth == 0:
            return place
    return None


def tagged(text: str, tag: str = "answer") -> str | None:
    """What stands between `<answer>` and `</answer>`, or the end of the text; None: nothing does."""
    match = re.search(rf"<{tag}>(.*?)(?:</{tag}>|<\|eot_id\|>|<\|endoftext\|>|\Z)", text, re.DOTALL)
    return match.group(1).strip() or None if match else None


def number_in(text: str, *, last: bool = False) -> float | None:
    """The first number of a text, or the last; commas between thousands are read over. None: there is none."""
    found = [match.group().replace(",", "") for match in _NUMBER.finditer(text)]
    return float(found[-1 if last else 0]) if found else None


def word_problem_answer(text: str) -> float | None:
    """The number that a solution of a word problem ends in (GSM8K).

    The first box with a number; else the last number of the tagged answer; else what follows `####`.
    """
    for content in boxes(text):
        number = number_in(content)
        if number is not None:
            return number
    answer = tagged(text)
    if answer is not None and (number := number_in(answer, last=True)) is not None:
        return number
    marked = text.rpartition("####")
    return number_in(marked[2]) if marked[1] else None


def mathematics_answer(text: str) -> str | None:
    """The expression that a solution of a competition problem ends in (MATH): the last box, else the tagged answer."""
    return last_box(text) or tagged(text)


# what LaTeX writes in several ways -> one of them, in this order (Hendrycks et al. 2021, appendix, in our words)
_SPELLINGS: tuple[tuple[str, str], ...] = (
    (r"\n|\\!|\\left|\\right|\^\{\\circ\}|\^\\circ|\\\$|\\?%", ""),
    (r"\\\\", r"\\"),
    (r"\\[td]frac", r"\\frac"),
    (r"\\text\{ .*", ""),
    (r"(?<![\d.])\.(?=\d)", "0."),
    (r"^[^=]{0,2}=(?=[^=]*$)", ""),
    (r"\\sqrt(?=[^{\s])\s*(.)", r"\\sqrt{\1}"),
    (r"\s", ""),
    (r"\\frac([^{])(?=[^{])(.)", r"\\frac{\1}{\2}"),
    (r"\\frac([^{])(?=\{)", r"\\frac{\1}"),
    (r"^0\.5$", r"\\frac{1}{2}"),
    (r"^(-?\d+)/(-?\d+)$", r"\\frac{\1}{\2}"),
)


def written_alike(expression: str) -> str:
    """An expression of LaTeX in one spelling: no spaces, no units, fractions and roots with braces."""
    for pattern, replacement in _SPELLINGS:
        expression = re.sub(pattern, replacement, expression.strip(" "))
    return expression


def same_mathematics(gold: str, answer: str | None) -> bool:
    """Whether two expressions are the same after spelling (MATH's rule: no algebra is done)."""
    return answer is not None and written_alike(gold) == written_alike(answer)


def sudoku_answer(text: str, cells: int = 16) -> str:
    """The digits of a grid as a model writes it.

    In a fenced block, else the tagged answer, else what follows a closing tag, else `cells` digits in a row.
    """
    fenced = re.search(r"<answer>.*?```\s*([\d\s]+)```", text, re.DOTALL)
    after = re.search(r"</answer>\s*(.*?)(?:<\||\Z)", text, re.DOTALL)
    row = re.search(rf"\b\d{{{cells}}}\b", text)
    written = (fenced and fenced.group(1), tagged(text), after and after.group(1), row and row.group())
    return re.sub(r"[\s`]", "", next((found for found in written if found), ""))


def sudoku_cells(puzzle: str, solution: str, answer: str) -> tuple[int, int]:
    """How many of the puzzle's empty cells (0) an answer fills as the solution does, and how many are empty.

    Raises:
        ValueError: puzzle and solution are not of one length.
    """
    empty = [(right, place) for place, (given, right) in enumerate(zip(puzzle, solution, strict=True)) if given == "0"]
    return sum(answer[place : place + 1] == right for right, place in empty), len(empty)


def sudoku_solved(puzzle: str, answer: str) -> bool:
    """Whether an answer keeps what the puzzle gives and has every digit once in each row, column and box.

    Raises:
        ValueError: the puzzle is no grid of 4 x 4 or 9 x 9.
    """
    box = {16: 2, 81: 3}.get(len(puzzle))
    if box is None:
        raise ValueError(f"a sudoku has 16 or 81 cells; this has {len(puzzle)}")
    size, digits = box * box, set("123456789"[: box * box])
    if len(answer) != len(puzzle) or any(given not in ("0", cell) for given, cell in zip(puzzle, answer, strict=True)):
        return False
    rows = [answer[start : start + size] for start in range(0, len(answer), size)]
    columns = ["".join(column) for column in zip(*rows, strict=True)]
    corners = [(row, column) for row in range(0, size, box) for column in range(0, size, box)]
    squares = ["".join(line[column : column + box] for line in rows[row : row + box]) for row, column in corners]
    return all(set(group) == digits for group in (*rows, *columns, *squares))


def countdown_answer(text: str) -> str:
    """The expression that a solution of a countdown problem ends in, in plain signs, without what it is equal to."""
    found = last_box(text) or tagged(text) or text
    for sign, plain in ((r"\div", "/"), (r"\times", "*"), (r"\cdot", "*"), ("×", "*"), ("÷", "/")):
        found = found.replace(sign, plain)
    equation = re.search(r"([0-9+\-*/() ]+)=[0-9. ]+", found)
    return (equation.group(1) if equation else found).strip()


def countdown_right(numbers: Sequence[int], target: float, expression: str) -> bool:
    """Whether an expression of + - * / and brackets uses each number exactly once and gives the target, exactly."""
    if Counter(map(int, re.findall(r"\d+", expression))) != Counter(numbers):
        return False
    value = arithmetic(expression)
    return value is not None and value == Fraction(target)


def countdown_steps_right(numbers: Sequence[int], target: float, steps: str) -> bool:
    """The same for steps, `3+4=7,7*2=14`: each uses numbers that are there, and leaves its result; one is left."""
    left = Counter(map(Fraction, numbers))
    for step in steps.split(","):
        match = re.fullmatch(r"\s*(-?[\d.]+)\s*([-+*/])\s*(-?[\d.]+)\s*=\s*(-?[\d.]+)\s*", step)
        parts = [_fraction(part) for part in match.group(1, 3, 4)] if match else [None]
        if match is None or None in parts:
            return False
        first, second, result = (part for part in parts if part is not None)
        left.subtract((first, second))
        if min(left.values()) < 0 or (second == 0 and match.group(2) == "/"):
            return False
        if _OPERATORS[match.group(2)](first, second) != result:
            return False
        left[result] += 1
    return +left == Counter([Fraction(target)])


_OPERATORS: dict[str, Callable[[Fraction, Fraction], Fraction]] = {
    "+": operator.add,
    "-": operator.sub,
    "*": operator.mul,
    "/": operator.truediv,
}
_SIGNS: dict[type[ast.operator], str] = {ast.Add: "+", ast.Sub: "-", ast.Mult: "*", ast.Div: "/"}


def arithmetic(expression: str) -> Fraction | None:
    """The exact value of an expression of numbers, + - * / and brackets; None: it is none, or divides by zero.

    Read as a tree, never executed: `9**9**9` is no such expression.
    """
    try:
        return _value(ast.parse(expression.strip(), mode="eval").body)
    except (SyntaxError, ValueError, ZeroDivisionError, RecursionError, MemoryError, TypeError):
        return None


def _value(node: ast.expr) -> Fraction:
    if isinstance(node, ast.BinOp) and type(node.op) in _SIGNS:
        return _OPERATORS[_SIGNS[type(node.op)]](_value(node.left), _value(node.right))
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub | ast.UAdd):
        value = _value(node.operand)
        return -value if isinstance(node.op, ast.USub) else value
    if isinstance(node, ast.Constant) and isinstance(node.value, int | float) and not isinstance(node.value, bool):
        return Fraction(str(node.value))
    raise ValueError("no arithmetic")


def _fraction(text: str) -> Fraction | None:
    try:
        return Fraction(text)
    except ValueError:
        return None
