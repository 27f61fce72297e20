"""Write docs/cli.md from the command line itself (`make docs`); `tests/test_docs.py` holds the file to it."""

from __future__ import annotations

import dataclasses
import inspect
import re
import types
import typing
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import typer

from wdm_cli.cli.main import app
from wdm_cli.engine import errors
from wdm_cli.engine.preset import TABLES

TARGET = Path(__file__).parents[1] / "docs" / "cli.md"
HEAD = """\
# The command line

Made by `make docs` from the commands themselves: change their help texts, not this file. `wdm COMMAND --help` says the
same.

stdout carries the answer (`--json` where a program reads it); progress, notes and warnings go to stderr. Inputs are
never written to; an output file appears whole or not at all. [Exit codes](#exit-codes),
[environment variables](#environment-variables) and [the keys of a preset](#keys-of-a-preset) stand at the end.
"""
VARIABLES = {
    "WDM_CACHE_DIR": "where caches and weights are kept; default `~/.cache/wdm` (`XDG_CACHE_HOME/wdm` if that is set)",
    "WDM_DATA_DIR": "the folder of volumes (`data.dir`)",
    "WDM_TABLE__KEY": "any key of a preset, e.g. `WDM_TRAIN__LR=2e-5`",
    "WDM_NATIVE": "`off`: on a CPU only PyTorch's operations are used, not the loops that wdm compiles with g++",
    "WDM_OFFLINE": "set to anything: nothing is downloaded",
    "WDM_DEBUG": "set to anything: errors are shown with their traceback, for a bug report",
}
COMPLETION = ("install_completion", "show_completion")  # the same for every program of its kind
PRESET_KEYS = """\
Set them in a `.toml` file, with `--set table.key=value`, or as `WDM_TABLE__KEY`. `wdm config show` prints the values of
a preset and where each comes from. Where a table has several kinds, `kind` chooses one; the first is the default."""
OTHER_CODES = {0: "Done.", 130: "Interrupted (a second Ctrl-C)."}


def reference() -> str:
    """The whole page."""
    root = typer.main.get_command(app)
    commands = list(walk(root, "wdm"))
    listing = [f"- [`{name}`](#{anchor(name)}): {summary(command)}" for name, command in commands[1:]]
    parts = [HEAD, *listing, "", *page("wdm", root)]
    for name, command in commands[1:]:
        parts += page(name, command)
    return "\n".join([*parts, *exit_codes(), *variables(), *preset_keys()])


def walk(command: Any, name: str) -> Iterator[tuple[str, Any]]:
    """(full name, command) of everything that is not hidden, groups before their members."""
    yield name, command
    for word, child in getattr(command, "commands", {}).items():
        if not child.hidden:
            yield from walk(child, f"{name} {word}")


def page(name: str, command: Any) -> list[str]:
    """Heading, purpose, usage and tables of one command."""
    given = [p for p in command.params if not p.hidden and p.name not in ("help", *COMPLETION)]
    arguments = [p for p in given if p.param_type_name == "argument"]
    chosen = [p for p in given if p.param_type_name == "option"]
    lines = [f"## {name}", "", inspect.cleandoc(command.help or ""), "", "```text", usage(name, command), "```", ""]
    if arguments:
        lines += table(("argument", "meaning"), [(f"`{shown(p)}`", cell(p.help)) for p in arguments])
    if chosen:
        rows = [(f"`{', '.join(p.opts)}`{value(p)}", cell(p.help), default(p)) for p in chosen]
        lines += table(("option", "meaning", "default"), rows)
    return lines


def usage(name: str, command: Any) -> str:
    """`wdm verify DIR [OPTIONS]`; options that must be given are named."""
    if hasattr(command, "commands"):
        return f"{name} [OPTIONS] COMMAND …"
    words = [name]
    for p in command.params:
        if p.param_type_name == "argument":
            words.append(shown(p) if p.required else f"[{shown(p)}]")
        elif p.required:
            words.append(f"{p.opts[0]} {metavar(p)}")
    return " ".join([*words, "[OPTIONS]"])


def shown(argument: Any) -> str:
    return str(argument.metavar or argument.name.upper())


def value(option: Any) -> str:
    """What stands behind an option: nothing for a flag, choices where there are few."""
    return "" if option.is_flag else f" {metavar(option)}"


def metavar(option: Any) -> str:
    if option.metavar:
        return str(option.metavar)
    kind = option.type_descriptor.annotation
    if typing.get_origin(kind) is list:
        (kind,) = typing.get_args(kind)
    if typing.get_origin(kind) is typing.Literal:
        return "/".join(map(str, typing.get_args(kind)))
    return {str: "TEXT", int: "N", float: "X", Path: "PATH"}[kind]


def default(option: Any) -> str:
    if option.required:
        return "must be given"
    return "" if option.default is None or option.is_flag else f"`{option.default}`"


def summary(command: Any) -> str:
    """The first sentence of a command's help, as in the list of commands."""
    first = inspect.cleandoc(command.help or "").split("\n\n")[0].replace("\n", " ")
    return first.split(". ")[0].rstrip(".")


def exit_codes() -> list[str]:
    """From the classes of errors: a code that nothing raises cannot stand here."""
    found: dict[int, list[str]] = {code: [text] for code, text in OTHER_CODES.items()}
    for cls in vars(errors).values():
        if isinstance(cls, type) and issubclass(cls, errors.WdmError) and cls is not errors.WdmError:
            found.setdefault(cls.exit_code, []).append((cls.__doc__ or "").split("\n\n")[0].replace("\n", " "))
    rows = [(str(code), " ".join(texts)) for code, texts in sorted(found.items())]
    return ["## Exit codes", "", *table(("code", "meaning"), rows)]


def variables() -> list[str]:
    rows = [(f"`{name}`", text) for name, text in VARIABLES.items()]
    return ["## Environment variables", "", *table(("variable", "meaning"), rows)]


def preset_keys() -> list[str]:
    """Every key of every kind with its meaning, type and default, from the classes that use them."""
    lines = ["## Keys of a preset", "", *PRESET_KEYS.splitlines(), ""]
    for name, classes in TABLES.items():
        shared = next((cls for cls in classes[0].__mro__[1:] if dataclasses.is_dataclass(cls)), None)
        lines += [f"### \\[{name}\\]", ""]
        if shared is not None:
            lines += keys_of(shared, ())
        for cls in classes:
            if shared is not None:
                lines += [f'#### {name}.kind = "{cls.kind}"', ""]
            lines += keys_of(cls, dataclasses.fields(shared) if shared else ())
    return lines


def keys_of(cls: Any, above: tuple[Any, ...]) -> list[str]:
    """What a class of settings is, and a table of the keys that are not as in the class above it."""
    known = {field.name: field.default for field in above}
    own = [f for f in dataclasses.fields(cls) if f.name != "kind" and known.get(f.name) != f.default]
    own = [f for f in own if f.default is not dataclasses.MISSING]  # those every kind declares for itself
    prose, meanings = read_docstring(cls)
    for base in cls.__mro__[1:]:  # a key that a class gives another default means what it meant above
        if dataclasses.is_dataclass(base):
            meanings = read_docstring(base)[1] | meanings
    hints = typing.get_type_hints(cls)
    rows = [(f"`{f.name}`", cell(meanings.get(f.name)), spelled(hints[f.name]), toml(f.default)) for f in own]
    return [prose, "", *(table(("key", "meaning", "value", "default"), rows) if rows else [])]


def read_docstring(cls: Any) -> tuple[str, dict[str, str]]:
    """Its prose, and the meaning of keys, which it writes as `name: what it is.`"""
    names = "|".join(field.name for field in dataclasses.fields(cls))
    prose, *pairs = re.split(rf"(?<!\S)({names}): ", inspect.cleandoc(cls.__doc__ or ""))
    assert len(set(pairs[::2])) == len(pairs[::2]), f"{cls.__name__}: a key with two meanings"
    return prose.strip(), dict(zip(pairs[::2], (" ".join(text.split()) for text in pairs[1::2]), strict=True))


def spelled(kind: Any) -> str:
    """A type as a user writes it."""
    origin, parts = typing.get_origin(kind), typing.get_args(kind)
    if origin is typing.Literal:
        return ", ".join(f"`{part}`" for part in parts)
    if origin in (types.UnionType, typing.Union):
        return " or ".join(map(spelled, parts))
    if origin is tuple:
        return f"list of {spelled(parts[0])}s" if parts[-1] is Ellipsis else f"{len(parts)} {spelled(parts[0])}s"
    return {"str": "text", "int": "integer", "float": "number", "bool": "true or false"}[kind.__name__]


def toml(found: Any) -> str:
    if isinstance(found, bool):
        return f"`{str(found).lower()}`"
    return f"`{list(found) if isinstance(found, tuple) else found}`" if found != "" else ""


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    lines = [head, ["---" for _ in head], *rows]
    return [f"| {' | '.join(row)} |".replace("  |", " |") for row in lines] + [""]


def cell(text: str | None) -> str:
    return (text or "").replace("|", "\\|").replace("\n", " ")


def anchor(name: str) -> str:
    return name.replace(" ", "-")


if __name__ == "__main__":
    from wdm_cli.engine.files import write_text

    write_text(TARGET, reference())
