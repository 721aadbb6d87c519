"""What was done to a model, as plain data that can be read, hashed and replayed.

A Recipe is a chain of Steps; the last one says how the result is run, because the run settings
are often the cheapest joules.
"""

from __future__ import annotations

import ast
import hashlib
import json
import keyword
import re
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field

from joulewise.core.errors import UsageError

__all__ = ["Recipe", "RunSettings", "Step", "parse_steps"]

Value = str | int | float | bool


@dataclass(frozen=True, kw_only=True)
class Step:
    """One pass by its registry name, with its parameters."""

    name: str
    parameters: Mapping[str, Value] = field(default_factory=dict)

    def __str__(self) -> str:
        inside = ", ".join(f"{key}={_word(x)}" for key, x in sorted(self.parameters.items()))
        return f"{self.name}({inside})"


@dataclass(frozen=True, kw_only=True)
class RunSettings:
    """How a program is run; None means whatever the runtime does when nobody asks.

    Args:
        runtime: registry name of the runtime.
        threads: threads inside one inference.
        spinning: whether idle worker threads burn CPU while they wait for work.
        graph: graph optimisation level, "basic" or "all".
        precision: precision of float arithmetic, "f32" or "bf16".
    """

    runtime: str
    threads: int | None = None
    spinning: bool | None = None
    graph: str | None = None
    precision: str | None = None

    def __str__(self) -> str:
        given = {k: v for k, v in asdict(self).items() if v is not None and k != "runtime"}
        return f"run({', '.join([self.runtime, *(f'{k}={v}' for k, v in given.items())])})"


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """Steps applied to the original in order, and how the result is run."""

    steps: tuple[Step, ...] = ()
    run: RunSettings

    def __str__(self) -> str:
        return " -> ".join([*(str(step) for step in self.steps), str(self.run)])

    @property
    def lossless(self) -> bool:
        """True where nothing but the way of running differs from the original."""
        return not self.steps and self.run.precision in (None, "f32")

    @property
    def key(self) -> str:
        """A short digest that names this recipe in a study."""
        return _digest(asdict(self))

    @property
    def steps_key(self) -> str:
        """A short digest that names the artifact which the steps give."""
        return _digest(asdict(self)["steps"])


QUANTIZERS = {"static": "static_int8", "dynamic": "dynamic_int8", "nncf": "nncf_int8"}
"""What the kinds of ``quantize(...)`` are called among the passes."""

EXAMPLE = 'write a recipe like "prune(ratio=0.5) + distill(epochs=3) + quantize(static)"'


TRUTH = {"true": True, "false": False}

_ARROWS = re.compile(r"""'(?:[^'\\]|\\.)*'|"(?:[^"\\]|\\.)*"|->""")


def _plus(found: re.Match[str]) -> str:
    """Return an arrow between steps as ``+``, and quoted text as it is."""
    return "+" if found[0] == "->" else found[0]


def parse_steps(text: str) -> tuple[Step, ...]:
    """Return the steps that a user wrote down; nothing is executed.

    Args:
        text: steps joined by ``+`` or ``->``: a name, and in parentheses its parameters; words
            need no quotes. ``quantize(KIND, ...)`` stands for the pass of one of QUANTIZERS.

    Raises:
        UsageError: the text is no recipe.
    """
    try:
        tree = ast.parse(_ARROWS.sub(_plus, text).strip(), mode="eval").body
    except (SyntaxError, ValueError, MemoryError, RecursionError) as error:
        raise UsageError(f"cannot read the recipe {text!r}; {EXAMPLE}") from error
    return tuple(_step(part) for part in _summands(tree))


def _summands(tree: ast.expr) -> Iterator[ast.expr]:
    if isinstance(tree, ast.BinOp) and isinstance(tree.op, ast.Add):
        yield from _summands(tree.left)
        yield from _summands(tree.right)
    else:
        yield tree


def _step(tree: ast.expr) -> Step:
    called = tree.func if isinstance(tree, ast.Call) else tree
    words = ast.unparse(tree)
    if not isinstance(called, ast.Name):
        raise UsageError(f"{words!r} is no step of a recipe; {EXAMPLE}")
    name, given = called.id, tree.args if isinstance(tree, ast.Call) else []
    if name == "quantize":
        kind = _value(given[0]) if given else "static"
        if kind not in QUANTIZERS or len(given) > 1:
            raise UsageError(f"{words!r} is none of quantize({'|'.join(QUANTIZERS)}, ...)")
        name, given = QUANTIZERS[str(kind)], []
    keywords = tree.keywords if isinstance(tree, ast.Call) else []
    if given or any(each.arg is None for each in keywords):
        raise UsageError(f"the parameters of {words!r} need names, as in prune(ratio=0.5)")
    parameters = {str(each.arg): _value(each.value) for each in keywords}
    if len(parameters) < len(keywords):
        raise UsageError(f"a parameter is given twice in {words!r}; give each once")
    return Step(name=name, parameters=parameters)


def _value(tree: ast.expr) -> Value:
    """Return a number, a truth value or a word."""
    if isinstance(tree, ast.Name):
        return TRUTH.get(tree.id, tree.id)
    try:
        value = ast.literal_eval(tree)
    except (ValueError, TypeError, MemoryError, RecursionError):
        value = None
    if not isinstance(value, Value):
        raise UsageError(f"{ast.unparse(tree)!r} is no number, truth value or word; {EXAMPLE}")
    return value


def _word(value: Value) -> str:
    """Return a parameter as `parse_steps` reads it."""
    plain = isinstance(value, str) and value.isidentifier() and not keyword.iskeyword(value)
    return str(value) if plain and value not in TRUTH else repr(value)


def _digest(value: object) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:16]
