"""Verdicts beside those of HumanEval's scorer, which runs program and tests as one: `exec(program + tests, {})`."""

from __future__ import annotations

import contextlib
import io

import pytest

from unmask.evaluation.sandbox import examine, run

pytestmark = pytest.mark.usefixtures("confined")


def official(program: str, tests: str) -> bool:
    with contextlib.redirect_stdout(io.StringIO()):
        try:
            exec(compile(f"{program}\n{tests}", "<string>", "exec", dont_inherit=True), {})
        except Exception:
            return False
    return True


def cases(text: str) -> dict[str, tuple[str, str]]:
    """Name -> program and tests, out of "## name", the one, "#", the other."""
    parts = (part.split("\n", 1) for part in text.strip().removeprefix("## ").split("\n## "))
    return {name: tuple(body.split("\n#\n")) for name, body in parts}


RIGHT = cases(r"""
## a decimal
from decimal import Decimal
def f(x=None):
    return Decimal(3)
#
assert f() == 3 and f() * 2 == 6
## a fraction
from fractions import Fraction
def f(x=None):
    return Fraction(1, 2)
#
assert f() == 0.5 and abs(f() - 0.5) < 1e-9
## a range
def f(x=None):
    return range(3)
#
assert f() == range(3) and len(f()) == 3
## a deque
from collections import deque
def f(x=None):
    return deque([1, 2], 5)
#
from collections import deque
assert f() == deque([1, 2])
## a counter
from collections import Counter
def f(x=None):
    return Counter('aab')
#
assert f() == {'a': 2, 'b': 1} and f()['z'] == 0
## a date
import datetime
def f(x=None):
    return datetime.date(2020, 1, 2)
#
import datetime
assert f() == datetime.date(2020, 1, 2)
## a time in a zone
import datetime as d
def f(x=None):
    return d.datetime(2020, 1, 2, 3, tzinfo=d.timezone(d.timedelta(hours=1)))
#
import datetime as d
assert f() == d.datetime(2020, 1, 2, 2, tzinfo=d.timezone.utc)
## a span
import datetime as d
def f(x=None):
    return d.date(2020, 1, 2) - d.date(2020, 1, 1)
#
assert f().days == 1
## keys and items
def f(x=None):
    return ({1: 2}.keys(), {1: 2}.items())
#
assert f() == ({1}, {(1, 2)})
## a bytearray
def f(x=None):
    return x
#
b = bytearray(b'a')
assert f(b) == b and type(f(b)) is bytearray
## a generator
def f():
    n = 0
    while True:
        yield n
        n += 1
#
g = f()
assert [next(g), next(g)] == [0, 1]
for i in g:
    if i > 5: break
assert next(g) == 7
## a function given
def f(x=None):
    return sorted(x, key=lambda n: -n)
def g(h): return h(3)
#
assert g(lambda n: n + 1) == 4
## functions of functions
def twice(h): return lambda n: h(h(n))
#
assert twice(lambda n: n * 3)(2) == 18
## the program's function given back
def f(n): return n + 1
def g(h, n): return h(n)
#
assert g(f, 1) == 2 and g(lambda n: f(n) * 2, 3) == 8
## a generator given
def f(x=None):
    return sum(x)
#
assert f(i for i in range(4)) == 6
## an iterator given, some of it
def f(x=None):
    return next(x)
#
i = iter([1, 2, 3])
assert f(i) == 1 and next(i) == 2
## what anyone can import, given
def f(x=None):
    return x[0](x[1](9))
#
import math
assert f([str, math.sqrt]) == '3.0'
## an error in a function given
def f(h):
    try:
        return h()
    except KeyError as e:
        return e.args[0]
#
def bad(): raise KeyError('k')
assert f(bad) == 'k'
## not the main one
def f(x): return x
if __name__ == '__main__':
    import unittest
    unittest.main()
#
assert f(1) == 1
## what is main
def f(x=None):
    return __name__
#
assert f() == 'builtins' == __name__
## much output
def f():
    print('x' * 70000)
    return 1
#
assert f() == 1
## an error of its own
class Odd(ValueError): pass
def f(): raise Odd('no')
#
try:
    f()
except ValueError as e:
    assert str(e) == 'no'
else:
    assert 0
## an error with parts
def f(x=None):
    return {}['k']
def g(): return b'\xff'.decode()
#
try:
    f()
except KeyError as e:
    assert e.args == ('k',)
try:
    g()
except UnicodeDecodeError as e:
    assert e.start == 0
## its imports
import math

def f(x=None):
    return 1 / 3
#
assert math.isclose(f(), 0.333333333333)
## the same object
class Node:
    def __init__(self, v): self.v, self.next, self.seen = v, None, {}
a = Node(1)
def f(): return a
#
assert f() is f() and f() == a and isinstance(f(), Node)
## objects changed
class Node:
    def __init__(self, v): self.v, self.next, self.seen = v, None, {}
def f(n): return n.next.v + n.seen['k']
#
n = Node(1)
n.next = Node(2)
n.seen = {'k': 3}
assert f(n) == 5
## text of an object
class A:
    def __str__(self): return 'an A'
def f(): return A()
#
assert str(f()) == f'{f()}' == 'an A'
## lists inside lists
def f(m): m[0][0] = 9; m.append([7])
#
row = [1]
m = [row]
f(m)
assert row == [9] and m == [[9], [7]]
## a name of Python's
def sum(a, b): return a * b
#
assert sum(2, 3) == 6
## numpy in the tests
def f(x=None):
    return [0.1 + 0.2]
#
import numpy as np
assert np.allclose(f(), [0.3])
## numpy in the program
import numpy as np
def f(x=None):
    return (np.arange(3), np.int64(4))
#
a, n = f()
assert a.tolist() == [0, 1, 2] and n == 4 and a.sum() == 3
""")
WRONG = cases(r"""
## nobody types
import sys
sys.stdin.read()

def f(x=None):
    return 1
#
assert f() == 1
## a name that is not there
def f(x: Lisst) -> int: return 1
#
assert f(1) == 1
## another decimal
from decimal import Decimal
def f(x=None):
    return Decimal(4)
#
assert f() == 3
## an array of two
import numpy as np
def f(x=None):
    return np.array([4, 4])
#
assert f() == 4
## not an assertion error
def f(x=None):
    return 1 / 0
#
try:
    f()
except ValueError: pass
""")


@pytest.mark.parametrize("case", RIGHT)
def test_what_the_official_scorer_passes_passes(case: str) -> None:
    assert official(*RIGHT[case])
    outcome = examine(*RIGHT[case])
    assert outcome.passed, outcome


@pytest.mark.parametrize("case", WRONG)
def test_what_the_official_scorer_fails_fails(case: str) -> None:
    assert not official(*WRONG[case])
    assert examine(*WRONG[case]).status == "failed"


SAME = "def __eq__(self, other): return True\n    __ne__ = __lt__ = __contains__ = __sub__ = __abs__ = __eq__\n"
HASH = "    __hash__ = B.__hash__\n"
IMITATIONS = {
    "a decimal": ("from decimal import Decimal as B", "'7'"),
    "a fraction": ("from fractions import Fraction as B", "7"),
    "a date": ("from datetime import date as B", "2020, 1, 7"),
    "a deque": ("from collections import deque as B", "[7]"),
    "an array": ("from numpy import ndarray as B", "(2,)"),
    "a dict": ("B = dict", "a=7"),
    "a list": ("B = list", "[7]"),
    "nothing known": ("B = object", ""),
}


@pytest.mark.parametrize("kind", IMITATIONS)
def test_objects_of_the_program_claim_no_equality(kind: str) -> None:
    imports, words = IMITATIONS[kind]
    code = f"{imports}\nclass Same(B):\n    {SAME}{HASH}def f(): return Same({words})"
    assert official(code, "assert f() == 5")
    assert examine(code, "assert f() == 5 or 5 == f() or f() in (5, Exception, [2], {3: 4})").status == "failed"


def test_values_keep_their_kind() -> None:
    imports = "from decimal import Decimal as D\nfrom fractions import Fraction as F\n"
    tests = "x = {'d': D('1.10'), 'f': F(2, 3)}\nassert f(x) == [x, D('1.1')] and str(f(x)[1]) == '1.10'\n"
    kinds = "assert type(f(x)[0]['f']) is F and type(f(x)[1]) is D"
    assert examine(f"{imports}def f(x): return [x, D('1.10')]", imports + tests + kinds).passed


def test_only_what_is_needed_of_packages_is_there() -> None:
    assert run("import numpy.linalg as l\nprint(l.det([[2.0]]))").output == "2.0\n"
    for name in ("torch", "pytest", "unmask"):
        assert "ModuleNotFoundError" in run(f"import {name}").error
