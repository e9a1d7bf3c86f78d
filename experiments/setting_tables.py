"""The settings of a program as tables of names, kinds, defaults and help, without torch.

Those of dataclasses that import nothing heavy are read from the class. The config of a method builds on
`transformers.TrainingArguments`, whose import takes seconds, so its fields are read from the source of both.
"""

import ast
import importlib.util
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import MISSING, Field, dataclass, fields
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

INHERITED = "TrainingArguments"
"""The class of transformers that configs build on."""
WORDS = {"int": "N", "float": "X", "bool": "true|false", "dict": "TABLE"}
_SECTION = re.compile(r"^    # --- (.+?) ---$", re.M)


@dataclass(frozen=True)
class Setting:
    """One setting. kind: its annotation as source. default: in words, None where a value must be given."""

    name: str
    kind: str
    default: str | None
    help: str
    choices: tuple[str, ...] = ()

    @property
    def value(self) -> str:
        """What is to be given, short: N, X, TEXT, TABLE, or the names to choose from."""
        return "|".join(self.choices) or _short(ast.parse(self.kind, mode="eval").body)


class Group(NamedTuple):
    """Settings that belong together, under one heading."""

    heading: str
    settings: tuple[Setting, ...]


def names(groups: Sequence[Group]) -> dict[str, Setting]:
    """All settings by name."""
    return {setting.name: setting for group in groups for setting in group.settings}


def groups_of(kind: Any) -> list[Group]:
    """The settings of a dataclass, those of the class itself before those of its bases."""
    own: dict[str, list[Setting]] = {}
    owners = {name: base for base in reversed(kind.__mro__) for name in vars(base).get("__annotations__", ())}
    for one in (one for one in fields(kind) if one.init):
        kind_of = vars(owners[one.name])["__annotations__"][one.name]  # not the field's own, which TRL's parser changes
        own.setdefault(owners[one.name].__name__, []).append(_of_field(one, kind_of))
    found = [(base, own[base.__name__]) for base in kind.__mro__ if base.__name__ in own]
    return [Group(_heading(base.__doc__ or base.__name__), tuple(settings)) for base, settings in found]


def training_methods() -> list[str]:
    """The names of all methods."""
    return sorted(_configs())


def training_groups(method: str) -> list[Group]:
    """The settings of a method's config: its own, those of every method, and at the end those of transformers."""
    taken: set[str] = set()
    groups = []
    for name in _lineage(_configs()[method]):
        source, node = _classes()[name]
        own = {setting.name: (line, setting) for line, setting in _fields(node) if setting.name not in taken}
        taken |= own.keys()
        if name == INHERITED:
            groups += _in_sections(source, list(own.values()))
        elif own:
            groups.append(Group(_heading(ast.get_docstring(node) or name), tuple(s for _, s in own.values())))
    return groups


def _of_field(one: Field, annotation: Any) -> Setting:
    default: Any = one.default
    if one.default_factory is not MISSING:
        default = one.default_factory()
    plain = isinstance(annotation, type) and not hasattr(annotation, "__args__")
    kind = annotation.__name__ if plain else str(annotation)
    choices = tuple(map(str, one.metadata.get("choices", ())))
    return Setting(
        one.name, kind, None if default is MISSING else _said(default), one.metadata.get("help", ""), choices
    )


def _heading(docstring: str) -> str:
    return " ".join(docstring.split("\n\n")[0].split()).rstrip(".:")


def _said(default: Any) -> str:
    if default is None or isinstance(default, bool):
        return str(default).lower()
    return (" ".join(map(str, default)) or "none") if isinstance(default, list | tuple) else str(default)


@cache
def _sources() -> list[tuple[str, ast.Module]]:
    """The text and the syntax tree of each file of `trainer`, after those of transformers' training arguments."""
    transformers = importlib.util.find_spec("transformers")
    assert transformers is not None and transformers.submodule_search_locations
    inherited = Path(transformers.submodule_search_locations[0]) / "training_args.py"
    paths = [inherited, *sorted((Path(__file__).parents[1] / "trainer").rglob("*.py"))]
    return [(text, ast.parse(text)) for text in (path.read_text(encoding="utf-8") for path in paths)]


@cache
def _classes() -> Mapping[str, tuple[str, ast.ClassDef]]:
    """Name -> the text of the file and the class."""
    return {n.name: (text, n) for text, tree in _sources() for n in tree.body if isinstance(n, ast.ClassDef)}


def _lineage(name: str) -> list[str]:
    """A class and those it is derived from, as far as their source is read here."""
    if name not in _classes():
        return []
    bases = [_name(base) for base in _classes()[name][1].bases]
    return list(dict.fromkeys([name, *(above for base in bases for above in _lineage(base))]))


@cache
def _configs() -> Mapping[str, str]:
    """Method -> the name of its config, as the table `METHODS` of `trainer` has them."""
    assigned: dict[str, ast.expr] = {}
    for node in (node for _, tree in _sources() for node in tree.body):
        targets = node.targets if isinstance(node, ast.Assign) else [getattr(node, "target", None)]
        if isinstance(value := getattr(node, "value", None), ast.expr):
            assigned |= {target.id: value for target in targets if isinstance(target, ast.Name)}
    table = assigned["METHODS"]
    assert isinstance(table, ast.Dict)
    return {
        ast.literal_eval(key): next(_config_names(value, assigned))
        for key, value in zip(table.keys, table.values, strict=True)
        if key is not None
    }


def _config_names(value: ast.expr, assigned: Mapping[str, ast.expr]) -> Iterator[str]:
    for node in ast.walk(value):
        name = _name(node)
        if INHERITED in _lineage(name):
            yield name
        elif name in assigned:
            yield from _config_names(assigned[name], assigned)


def _name(node: ast.AST) -> str:
    return getattr(node, "id", getattr(node, "attr", ""))


def _fields(node: ast.ClassDef) -> Iterator[tuple[int, Setting]]:
    """The line and the setting of each field that a class adds or says anew."""
    for line in node.body:
        if not (isinstance(line, ast.AnnAssign) and isinstance(line.target, ast.Name)):
            continue
        kind, value = ast.unparse(line.annotation), line.value
        given = {key.arg: key.value for key in value.keywords} if isinstance(value, ast.Call) else {}
        if "ClassVar" in kind or _literal(given.get("init")) is False:
            continue
        default = given.get("default", None if given else value)
        metadata = _table(given.get("metadata"))
        said = None if default is None else _said(_literal(default, ast.unparse(default)))
        if "default_factory" in given:
            said = _made(given["default_factory"])
        choices = tuple(map(str, metadata.get("choices", ())))
        yield line.lineno, Setting(line.target.id, kind, said, metadata.get("help", ""), choices)


def _made(factory: ast.expr) -> str:
    """What a default_factory gives: its source where that is no literal."""
    made = factory.body if isinstance(factory, ast.Lambda) else None
    return "none" if made is None else _said(_literal(made, ast.unparse(made)))


def _literal(node: ast.expr | None, otherwise: Any = None) -> Any:
    try:
        return None if node is None else ast.literal_eval(node)
    except ValueError:
        return otherwise


def _table(node: ast.expr | None) -> dict[str, Any]:
    """The literal values of a dictionary."""
    pairs = zip(node.keys, node.values, strict=True) if isinstance(node, ast.Dict) else ()
    found = {_literal(key): _literal(value) for key, value in pairs}
    return {key: value for key, value in found.items() if value is not None}


def _in_sections(source: str, settings: list[tuple[int, Setting]]) -> list[Group]:
    """The settings of transformers under the headings that its source has."""
    heads = [(source.count("\n", 0, match.start()) + 1, match[1]) for match in _SECTION.finditer(source)]
    sections: dict[str, list[Setting]] = {}
    for line, setting in settings:
        before = [heading for start, heading in heads if start < line]
        sections.setdefault(before[-1] if before else "General", []).append(setting)
    return [Group(f"transformers.{INHERITED}: {head}", tuple(some)) for head, some in sections.items()]


def _short(node: ast.expr) -> str:
    if isinstance(node, ast.BinOp):
        members = [text for text in (_short(node.left), _short(node.right)) if text]
        tables = [text for text in members if text == "TABLE" or text.endswith("...")]
        return (tables or members or [""])[0]
    if isinstance(node, ast.Subscript):
        inner = node.slice
        if _name(node.value) == "Literal":
            return "|".join(str(one) for one in ast.literal_eval(f"[{ast.unparse(inner).strip('()')}]"))
        if _name(node.value) in ("list", "List"):
            return f"{_short(inner)} ..."
        return _short(inner if _name(node.value) == "Optional" else node.value)
    if isinstance(node, ast.Constant) and node.value is None:
        return ""
    return WORDS.get(_name(node), "TEXT")
