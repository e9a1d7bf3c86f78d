"""The pages of the site that are made from the code: settings of every program, the Python API, linked files.

mkdocs runs it when the site is built (`make docs`).
"""

import re
from collections.abc import Sequence
from pathlib import Path

import mkdocs_gen_files

from experiments.programs import PROGRAMS
from experiments.setting_tables import INHERITED, Group, Setting, groups_of, training_groups, training_methods

ROOT = Path(__file__).parents[1]
PACKAGES = {
    "trainer": "Trainers and their configs",
    "trainer.objectives": "Objectives, pure functions",
    "rewards": "Rewards",
    "samplers": "Samplers",
    "samplers.rollouts": "The vLLM worker",
    "recommenders": "Recommenders, also what was trained",
    "policy": "Policies over the trie",
    "evaluation": "Metrics and reports",
    "semantic_ids": "From a log to semantic IDs",
    "interactions": "Logs, splits and prompts",
    "catalog": "Semantic IDs, the trie, exact flows",
    "serving": "The HTTP server",
}
LINKED = re.compile(r"\]\(([\w./-]+?\.(?:py|yaml|json|txt|cff))[)#]")

LANGUAGES = {".cff": "yaml"}
"""The language of a file, where it is not called like its ending."""


def write(path: str, text: str) -> None:
    with mkdocs_gen_files.open(path, "w") as file:
        file.write(text)


def cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|").replace("<", "&lt;")


def row(setting: Setting) -> str:
    default = "**required**" if setting.default is None else f"`{cell(setting.default)}`" if setting.default else ""
    return f"| `{setting.name}` | {cell(setting.value)} | {default} | {cell(setting.help)} |"


def tables(groups: Sequence[Group]) -> str:
    """Each group under its heading, as a table of name, value, default and help."""
    head = "| setting | value | default | |\n| --- | --- | --- | --- |\n"
    return "\n\n".join(f"## {group.heading}\n\n{head}" + "\n".join(map(row, group.settings)) for group in groups)


def settings_pages() -> None:
    for name, kind in PROGRAMS.items():
        text = f"# gflowgr {name}\n\nSettings of the program, for the command line or its YAML file.\n\n"
        if name == "train":
            methods = ", ".join(f"[{method}](method_{method}.md)" for method in training_methods())
            text += f"Those of each method are on pages of their own: {methods}.\n\n"
        write(f"reference/settings/{name}.md", text + tables(groups_of(kind)) + "\n")
    for method in training_methods():
        own = [group for group in training_groups(method) if INHERITED not in group.heading]
        text = f"# Method {method}\n\nBeside these, every field of `transformers.{INHERITED}` is a setting.\n\n"
        write(f"reference/settings/method_{method}.md", text + tables(own) + "\n")


def api_pages() -> None:
    for name, title in PACKAGES.items():
        write(f"reference/api/{name}.md", f"# {name}\n\n{title}.\n\n::: {name}\n")


def front_page() -> None:
    methods = [f"method_{method}" for method in training_methods()]
    lines = ["# Reference", "", "Made from the code.", "", "## Settings", ""]
    lines += [f"- [gflowgr {name}](settings/{name}.md)" for name in PROGRAMS]
    lines += [f"- [{name.replace('_', ' ')}](settings/{name}.md)" for name in methods]
    lines += ["", "## Python", ""] + [f"- [`{name}`](api/{name}.md): {title}" for name, title in PACKAGES.items()]
    write("reference/index.md", "\n".join(lines) + "\n")


def copied_pages() -> None:
    """README, CONTRIBUTING, and the files that pages link to, each as a page."""
    write("index.md", (ROOT / "README.md").read_text())
    write("contributing.md", (ROOT / "CONTRIBUTING.md").read_text())
    pages = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
    for page in pages:
        for path in LINKED.findall(page.read_text()):
            file = (page.parent / path).resolve()
            place = file.relative_to(ROOT).as_posix()
            code = f"```{LANGUAGES.get(file.suffix, file.suffix[1:])}\n{file.read_text()}\n```\n"
            write(f"reference/files/{place}.md", f"# {place}\n\n{code}")


settings_pages()
api_pages()
front_page()
copied_pages()
