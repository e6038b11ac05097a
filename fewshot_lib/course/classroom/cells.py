"""Which code of a notebook an exercise needs, and what of a submitted notebook is an answer to it.

An exam room (:mod:`.exam`) runs the course's own cells up to an exercise: imports and definitions all, and of
the rest what the exercise's cell reads, directly or through others. Of a submission it runs definitions,
imports and constants alone, in cells that are not the course's: an answer is a function, and what it calls.
"""

import ast
import re
import symtable
from collections.abc import Collection, Iterator, Sequence

from fewshot_lib.course import exercises

DEFINITIONS = (ast.Import, ast.ImportFrom, ast.FunctionDef, ast.ClassDef)
_MAGIC = re.compile(r"^\s*[%!?].*$", re.MULTILINE)
CHANGES = {"append", "extend", "insert", "update", "add", "setdefault", "load_state_dict"}
LONGEST = 50_000  # characters of one cell of a submission


def exercise_name(source: str) -> str:
    """The name of the function that a cell asks for; "" where it asks for none."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.FunctionDef) and any(map(_is_exercise, node.decorator_list)):
            return node.name
    return ""


def _is_exercise(decorator: ast.expr) -> bool:
    call = decorator.func if isinstance(decorator, ast.Call) else decorator
    return isinstance(call, ast.Attribute) and call.attr == exercises.exercise.__name__


def context(cells: Sequence[str], asking: Sequence[int]) -> list[ast.Module]:
    """What to run of each cell so that those that ask can run: all of it, or imports and definitions only.

    asking: positions of the exercises. Backwards from each: a cell that makes or changes a needed name is
    needed, and so is what it reads. ``x[0] = 1``, ``x.y = 1`` and ``x.append(1)`` change x, too.
    """
    trees = [ast.parse(cell) for cell in cells]
    definitions = [[node for node in tree.body if isinstance(node, DEFINITIONS)] for tree in trees]
    bodies = {
        node.name: _read(node)
        for nodes in definitions
        for node in nodes
        if isinstance(node, ast.FunctionDef | ast.ClassDef)
    }
    whole = set(asking)
    for asks in asking:
        needed = _with_bodies(_read_by(trees[asks]), bodies)
        for position in range(asks - 1, -1, -1):
            made = _made(trees[position])
            if needed & made.keys():
                whole.add(position)
                sure = {name for name, wholly in made.items() if wholly}
                needed = _with_bodies((needed - sure) | _read_by(trees[position]), bodies)
    return [
        tree if position in whole else ast.Module([*definitions[position]], type_ignores=[])
        for position, tree in enumerate(trees)
    ]


def _with_bodies(needed: set[str], bodies: dict[str, set[str]]) -> set[str]:
    """With all that functions among the names read, and those that these call."""
    waiting = list(needed & bodies.keys())
    while waiting:
        more = bodies[waiting.pop()] - needed
        needed = needed | more
        waiting += more & bodies.keys()
    return needed


def _read(node: ast.AST) -> set[str]:
    """Names from outside that a piece of code reads."""

    def of(table: symtable.SymbolTable) -> Iterator[str]:
        for symbol in table.get_symbols():
            if symbol.is_referenced() and (symbol.is_global() or table.get_type() == "module"):
                yield symbol.get_name()
        for child in table.get_children():
            yield from of(child)

    return set(of(symtable.symtable(ast.unparse(node), "cell", "exec")))


def _read_by(tree: ast.Module) -> set[str]:
    """Names that a cell reads before it has made them itself."""
    read: set[str] = set()
    own: set[str] = set()
    for statement in tree.body:
        read |= _read(statement) - own
        own |= {name for name, wholly in _made(ast.Module([statement], [])).items() if wholly}
    return read


def _made(tree: ast.Module) -> dict[str, bool]:
    """Names that a cell binds (True: in any case) or changes; but for its definitions, which run anyway."""
    found: dict[str, bool] = {}
    for statement in (node for node in tree.body if not isinstance(node, DEFINITIONS)):
        table = symtable.symtable(ast.unparse(statement), "cell", "exec")
        bound = {symbol.get_name() for symbol in table.get_symbols() if symbol.is_assigned()}
        wholly = isinstance(statement, ast.Assign | ast.With)
        found |= {name: wholly or found.get(name, False) for name in bound}
        for node in ast.walk(statement):
            changed: ast.expr | None = None
            if isinstance(node, ast.Subscript | ast.Attribute) and isinstance(node.ctx, ast.Store):
                changed = node.value
            elif (
                isinstance(node, ast.Call)
                and isinstance(node.func, ast.Attribute)
                and node.func.attr in CHANGES
            ):
                changed = node.func.value
            if changed is not None:
                found |= {name: found.get(name, False) for name in _read(changed)}
    return found


def answering(source: str) -> Iterator[ast.stmt]:
    """Imports, definitions and constants of a cell of a submission, without the decorator of exercises.

    SyntaxError where the cell is not Python; lines of magic commands are left out.
    """
    if len(source) > LONGEST:
        raise SyntaxError(f"a cell of {len(source):,} characters is not read")
    for node in ast.parse(_MAGIC.sub("", source)).body:
        if isinstance(node, ast.FunctionDef):
            node.decorator_list = [d for d in node.decorator_list if not _is_exercise(d)]
        if isinstance(node, DEFINITIONS) or (isinstance(node, ast.Assign) and _is_literal(node.value)):
            yield node


def _is_literal(value: ast.expr) -> bool:
    try:
        ast.literal_eval(value)
    except ValueError:
        return False
    return True


class OtherSeeds(ast.NodeTransformer):
    """Adds a number to every seed written out, as in ``manual_seed(0)``: other cases of the same kind."""

    def __init__(self, shift: int) -> None:
        self.shift, self.changed = shift, False

    def visit_Call(self, node: ast.Call) -> ast.Call:
        self.generic_visit(node)
        if isinstance(node.func, ast.Attribute) and node.func.attr == "manual_seed" and node.args:
            self.changed = True
            node.args[0] = ast.BinOp(node.args[0], ast.Add(), ast.Constant(self.shift))
        return ast.fix_missing_locations(node)


def factories(cells: Sequence[str]) -> set[str]:
    """Functions that make a reference: ``f`` of ``@course.exercise(reference=answers.f(…))``."""
    found = set()
    for node in (node for cell in cells for node in ast.walk(ast.parse(cell))):
        for decorator in node.decorator_list if isinstance(node, ast.FunctionDef) else []:
            given = decorator.keywords if isinstance(decorator, ast.Call) and _is_exercise(decorator) else []
            made = [k.value.func for k in given if isinstance(k.value, ast.Call)]
            found |= {function.attr for function in made if isinstance(function, ast.Attribute)}
    return found


def _base(target: ast.expr) -> str:
    """The name that a target begins with: "a" of a and of a["b"]."""
    while isinstance(target, ast.Subscript):
        target = target.value
    return target.id if isinstance(target, ast.Name) else ""


def hollow(source: str, makers: Collection[str] = ()) -> str:
    """A module of answers without its answers: names and constants are there, the functions refuse.

    A function that a constant is made with stays. makers: functions that are called to make a reference.
    """
    tree = ast.parse(source)
    functions = {node.name: node for node in tree.body if isinstance(node, ast.FunctionDef)}
    kept: set[str] = set()
    body: list[ast.stmt] = []
    for node in tree.body:
        if isinstance(node, ast.Assign) and any(_base(target) == "MISTAKES" for target in node.targets):
            continue
        if isinstance(node, ast.Assign):
            kept |= _read(node.value) & functions.keys()
        body.append(node)
    for name in functions.keys() - kept:
        refuse = "raise ReferenceError('the reference of the course is not here: write it yourself')"
        if name in makers:
            refuse = f"def absent(*_, **__):\n    {refuse}\nreturn absent"
        functions[name].body = ast.parse(refuse).body
    body += ast.parse("import collections\nMISTAKES = collections.defaultdict(dict)").body
    return ast.unparse(ast.fix_missing_locations(ast.Module(body, type_ignores=[])))
