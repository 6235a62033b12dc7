"""The questions about a version that a syntax tree shows: by name, by feeling, by trying.

What it cannot show is in `docs/versions.md`. Nothing is run, and nothing but the text is read.
"""

import ast
import functools
import re
from collections.abc import Callable, Iterator

Known = dict[str, str]
"""What each name of a module stands for, in full."""

OTHERS = {
    *("torch", "transformers", "tokenizers", "triton", "safetensors", "huggingface_hub", "numpy"),
    *("jaxtyping", "rich", "typer", "ftfy", "spacy", "matplotlib", "sys"),
}
"""Packages of others whose versions differ. To feel for what one of them has is to ask."""

ASKED_OF = {
    *("importlib.metadata", "importlib_metadata", "pkg_resources", "packaging", "looseversion"),
    *("distutils", "sysconfig", "numpy.version", "torch.version", "torch.torch_version"),
    *("torch.__config__", "transformers.utils.versions", "sys.version", "sys.implementation"),
}
"""What is there to be asked for versions, and for what was built or installed."""

ASKING = {
    *("__version__", "version_info", "hexversion", "python_version", "python_version_tuple"),
    *("TorchVersion", "torch_version"),
}
"""Names under which a version is had, whoever's attribute they are."""

PREDICATE = re.compile(r"is_(torch|transformers)_\w+|is_\w+_(available|greater_or_equal\w*)")
"""What transformers and others call the functions that compare versions for one."""

IMPORTERS = {"import_module", "__import__", "find_spec", "importorskip"}

MISSED = {"AttributeError", "ImportError", "ModuleNotFoundError", "NameError", "TypeError"}
"""What is raised where a version lacks a name, a module or an argument."""

COMPAT = "reference.compat"

ANSWERS = {
    *("dtype_keyword", "last_logits_keyword", "tokenizer_normalizer", "unpickles_safely"),
    *("sets_precision_of_onednn", "leaves_connections_open"),
}
"""What everybody may have of the table. The rest of it is a way to ask past the answers."""


def imported(node: ast.AST) -> Iterator[tuple[str, str]]:
    """Give the names that an import binds and what each is in full; the table is found from .."""
    if isinstance(node, ast.Import):
        for alias in node.names:
            top = alias.name.split(".")[0]
            yield alias.asname or top, alias.name if alias.asname else top
    elif isinstance(node, ast.ImportFrom):
        home = str(node.module or "")
        if node.level:
            home = f"reference.{home}".rstrip(".")
        yield from ((alias.asname or alias.name, f"{home}.{alias.name}") for alias in node.names)


def given(node: ast.AST) -> Iterator[tuple[ast.expr, ast.expr]]:
    """Give every target with its value: of assignments, and of parameters with a default."""
    if isinstance(node, ast.Assign):
        for target in node.targets:
            if isinstance(target, ast.Tuple) and isinstance(node.value, ast.Tuple):
                yield from zip(target.elts, node.value.elts, strict=False)
            yield target, node.value
    elif isinstance(node, ast.AnnAssign | ast.NamedExpr) and node.value:
        yield node.target, node.value
    elif isinstance(node, ast.arguments):
        names = [ast.Name(arg.arg) for arg in [*node.posonlyargs, *node.args]]
        yield from zip(reversed(names), reversed(node.defaults), strict=False)
        named = zip(node.kwonlyargs, node.kw_defaults, strict=True)
        yield from ((ast.Name(arg.arg), value) for arg, value in named if value)


def full_name(node: ast.AST, known: Known) -> str:
    """Return what an expression is called in full, `?` where it is no imported name's."""
    if isinstance(node, ast.Name):
        return known.get(node.id, "?")
    if isinstance(node, ast.Attribute):
        return f"{full_name(node.value, known)}.{node.attr}"
    return full_name(node.func, known) + "()" if isinstance(node, ast.Call) else "?"


def meanings(tree: ast.AST) -> Known:
    """Return what each imported name stands for, and what was named after one of those."""
    nodes = list(ast.walk(tree))
    known = dict(pair for node in nodes for pair in imported(node))
    pairs = [pair for node in nodes for pair in given(node) if isinstance(pair[0], ast.Name)]
    size = -1
    while size != len(known):  # a name may be given after one that stands further down
        size = len(known)
        for target, value in pairs:
            if not (name := full_name(value, known)).startswith("?"):
                known.setdefault(target.id, name)
    return known


def of_others(name: str) -> bool:
    """Return whether a full name begins with one of the packages that differ."""
    return name.partition(".")[0].removesuffix("()") in OTHERS


def asked_in(name: str) -> Iterator[str]:
    """Give what a full name asks: of what is there for it, or in words that say so."""
    yield from (module for module in ASKED_OF if f"{name}.".startswith(f"{module}."))
    owner, _, last = name.rpartition(".")
    private = of_others(owner) and re.fullmatch(r"_\w+_version", last)
    if last in ASKING or PREDICATE.fullmatch(last) or private:
        yield name
    if owner == COMPAT and last not in ANSWERS:
        yield name


def by_name(node: ast.AST, known: Known) -> Iterator[str]:
    """Give what an attribute, or an import, asks by being named."""
    if isinstance(node, ast.Attribute):
        yield from asked_in(full_name(node, known))
    elif isinstance(node, ast.Import):
        for alias in node.names:
            yield from asked_in(alias.name)
    for _, name in imported(node):
        yield from asked_in(name)
        if name.endswith(".*") and of_others(name):
            yield name


def by_text(node: ast.AST, known: Known) -> Iterator[str]:
    """Give what a literal asks: a name under which a version is had, a module to be imported."""
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        yield from (repr(part) for part in node.value.split(".") if part in ASKING)
    key = None
    if isinstance(node, ast.Call) and node.args:
        called = ast.unparse(node.func).split(".")[-1]
        key = node.args[0] if called in IMPORTERS else None
    elif isinstance(node, ast.Subscript) and full_name(node.value, known) == "sys.modules":
        called, key = "sys.modules", node.slice
    if isinstance(key, ast.Constant) and isinstance(key.value, str):
        yield from asked_in(key.value)
        if called != "import_module" and "." in key.value and of_others(key.value):
            yield f"{called}({key.value})"


def by_feeling(node: ast.AST, known: Known) -> Iterator[str]:
    """Give what is looked into for what it has: by `hasattr`, a default, a list, a signature."""
    if isinstance(node, ast.Attribute) and node.attr == "__dict__":
        owner, felt = full_name(node.value, known), "{}.__dict__"
    elif isinstance(node, ast.Call) and node.args:
        owner, called = full_name(node.args[0], known), ast.unparse(node.func)
        least = {"hasattr": 2, "getattr": 3, "dir": 1, "vars": 1}.get(called, len(node.args) + 1)
        inspecting = full_name(node.func, known)
        looks = len(node.args) >= least or inspecting.startswith("inspect.")
        felt = f"{inspecting if '.' in inspecting else called}({{}})" if looks else ""
    else:
        return
    if felt and of_others(owner):
        yield felt.format(owner)


def caught(node: ast.AST) -> set[str]:
    """Return what is caught of `MISSED`; who raises in its place takes no other way."""
    found: list[ast.expr] = []
    if isinstance(node, ast.Try):
        going_on = [one for one in node.handlers if not isinstance(one.body[-1], ast.Raise)]
        found = [handler.type for handler in going_on if handler.type]
    elif isinstance(node, ast.With):
        calls = [one.context_expr for one in node.items if isinstance(one.context_expr, ast.Call)]
        suppressing = [call for call in calls if ast.unparse(call.func).endswith("suppress")]
        found = [error for call in suppressing for error in call.args]
    named = [part for error in found for part in ast.walk(error) if isinstance(part, ast.Name)]
    return MISSED & {part.id for part in named}


def by_trying(node: ast.AST, known: Known) -> Iterator[str]:
    """Give whose names are used, or imported, where it is caught that one is missing."""
    if not (errors := caught(node)):
        return
    body = [part for line in node.body for part in ast.walk(line)]
    used = {known.get(part.id, "?") for part in body if isinstance(part, ast.Name)}
    used |= {name for part in body for _, name in imported(part)}
    tops = {name.split(".")[0].removesuffix("()") for name in used if of_others(name)}
    yield from (f"{error} of {top}" for error in errors for top in tops)


def by_handing_on(node: ast.AST, known: Known) -> Iterator[str]:
    """Give the table where it is given to something else whole, to be opened there."""
    for part in ast.iter_child_nodes(node):
        if not isinstance(node, ast.Attribute) and full_name(part, known) == COMPAT:
            yield COMPAT


def choosing(node: ast.AST) -> list[ast.expr]:
    """Return what a statement or an expression chooses by; an `assert` chooses nothing."""
    if isinstance(node, ast.If | ast.IfExp | ast.While):
        return [node.test]
    if isinstance(node, ast.BoolOp):
        return node.values
    if isinstance(node, ast.comprehension):
        return node.ifs
    if isinstance(node, ast.Match):
        return [node.subject]
    compared = [] if isinstance(node, ast.Assert) else ast.iter_child_nodes(node)
    return [child for child in compared if isinstance(child, ast.Compare)]


def by_deciding(node: ast.AST, known: Known) -> Iterator[str]:
    """Give what is asked where a way is chosen."""
    for part in (part for test in choosing(node) for part in ast.walk(test)):
        yield from (f"decided by {name}" for name in by_name(part, known))
        yield from (f"decided by {name}" for name in by_text(part, known))


WAYS: tuple[Callable[[ast.AST, Known], Iterator[str]], ...] = (
    *(by_name, by_text, by_feeling, by_trying, by_handing_on, by_deciding),
)


@functools.cache
def questions(source: str) -> set[str]:
    """Return every question about a version that `source` asks."""
    tree = ast.parse(source)
    known = meanings(tree)
    return {asked for node in ast.walk(tree) for way in WAYS for asked in way(node, known)}
