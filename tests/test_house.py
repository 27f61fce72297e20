"""The rules of the house, read off the source: layers, prints, imports, sizes, and nothing that runs code."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1] / "wdm_cli"
FILES = sorted(ROOT.rglob("*.py"))
TREES = {path.relative_to(ROOT).as_posix(): ast.parse(path.read_text()) for path in FILES}
HEAVY = ("torch", "numpy", "nibabel", "pydicom", "SimpleITK", "pywt", "scipy", "PIL", "safetensors", "pydantic", "rich")

# the lower may not know the higher; a package stands for its modules
LAYERS = (
    ("__init__.py", "engine/__init__.py", "engine/errors.py", "engine/files.py"),
    ("engine/machine.py",),
    ("engine/native/", "engine/draw.py"),
    ("engine/haar.py", "engine/wavelet.py"),
    ("engine/diffusion.py", "engine/models/", "engine/samplers/", "engine/spaces/", "engine/data/", "engine/dicom/",
     "engine/picture.py", "engine/claims.py", "engine/safe_load.py", "engine/metrics/", "engine/provenance.py",
     "engine/device.py"),
    ("engine/preset.py",),
    ("engine/checkpoint.py",),
    ("engine/",),
    ("config.py",),
    ("cli/", "__main__.py"),
)  # fmt: skip


def layer(name: str) -> int:
    return next(
        i for i, parts in enumerate(LAYERS) if any(name == p or (p[-1] == "/" and name.startswith(p)) for p in parts)
    )


def imports(tree: ast.AST, *, head_only: bool = False) -> list[str]:
    """Names of imported modules; at the head only, if asked, without those for type checkers."""
    nodes = tree.body if head_only and isinstance(tree, ast.Module) else ast.walk(tree)
    found = []
    for node in nodes:
        if isinstance(node, ast.Import):
            found += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            found += [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
    return found


def own_file(module: str) -> str | None:
    """The file of a module of this package."""
    if not module.startswith("wdm_cli"):
        return None
    path = module.replace(".", "/").removeprefix("wdm_cli").lstrip("/")
    return next((name for name in (f"{path}.py", f"{path}/__init__.py") if name in TREES), None)


def runtime(tree: ast.Module) -> ast.Module:
    """Without the blocks `if TYPE_CHECKING:`, which import nothing."""

    class Strip(ast.NodeTransformer):
        def visit_If(self, node: ast.If) -> ast.AST | None:
            return None if isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING" else node

    return Strip().visit(ast.parse(ast.unparse(tree)))  # type: ignore[no-any-return]


@pytest.mark.parametrize("name", TREES)
def test_imports_go_downward(name: str) -> None:
    used = {own_file(module) for module in imports(runtime(TREES[name]))} - {None}
    upward = [other for other in used if other and layer(other) > layer(name)]
    assert not upward, f"{name} knows of {upward}"


REGISTRIES = {
    "engine/models": "MODELS",
    "engine/samplers": "SAMPLERS",
    "engine/spaces": "SPACES",
    "engine/data": "DATASETS",
    "engine/metrics": "METRICS",
}


@pytest.mark.parametrize(("package", "registry"), REGISTRIES.items())
def test_entries_of_a_registry_do_not_know_each_other(package: str, registry: str) -> None:
    """An entry is one file and one word: it can be removed like that, too."""
    tree = TREES[f"{package}/__init__.py"]
    listed = next(
        node.value for node in tree.body if isinstance(node, ast.Assign) and dotted(node.targets[0]) == registry
    )
    entries = {dotted(element) for element in getattr(listed, "elts", [])}
    assert len(entries) > 1
    homes = {
        own_file(node.module or "")
        for node in tree.body
        if isinstance(node, ast.ImportFrom) and entries & {alias.name for alias in node.names}
    } - {None, "engine/models/settings.py"}  # settings of both networks; the networks are asked below
    if package == "engine/models":
        homes = {"engine/models/unet.py", "engine/models/wavunet.py"}
    found = {(name, other) for name in homes if name for other in map(own_file, imports(TREES[name])) if other in homes}
    assert not found


def test_every_public_class_and_function_of_the_engine_that_is_no_trifle_says_what_it_is() -> None:
    """A property or a one-liner may speak for itself."""
    silent = [
        f"{name}:{node.lineno} {node.name}"
        for name, tree in TREES.items()
        if name.startswith("engine/")
        for node in tree.body
        if isinstance(node, ast.FunctionDef | ast.ClassDef) and not node.name.startswith("_")
        if not ast.get_docstring(node) and (node.end_lineno or 0) - node.lineno > 4
    ]
    assert not silent, silent
    assert not [name for name, tree in TREES.items() if not ast.get_docstring(tree)]


def calls(tree: ast.AST) -> list[ast.Call]:
    return [node for node in ast.walk(tree) if isinstance(node, ast.Call)]


def dotted(node: ast.AST) -> str:
    return ast.unparse(node) if isinstance(node, ast.Name | ast.Attribute) else ""


def test_only_the_console_prints() -> None:
    loud = {
        name for name, tree in TREES.items() for call in calls(tree) if dotted(call.func) in ("print", "typer.echo")
    }
    assert loud == {"cli/console.py"}


def test_command_files_import_nothing_heavy_at_their_head() -> None:
    for name, tree in TREES.items():
        if name.startswith(("cli/", "config.py")):
            heavy = {module.split(".")[0] for module in imports(tree, head_only=True)} & set(HEAVY)
            assert not heavy, f"{name} imports {heavy} at its head"


def test_the_engine_reads_neither_environment_nor_command_line_nor_terminal() -> None:
    for name, tree in TREES.items():
        if name.startswith("engine/"):
            used = {dotted(node) for node in ast.walk(tree)} & {"os.environ", "os.getenv", "sys.argv", "input"}
            assert not used, f"{name} uses {used}"
            assert not {m.split(".")[0] for m in imports(tree)} & {"typer", "rich", "click", "argparse"}, name


def test_nothing_can_run_code_from_data() -> None:
    """R23: no pickle, eval, exec, shell, unsafe torch.load, extractall or bare except."""
    for name, tree in TREES.items():
        forbidden = {"eval", "exec", "compile", "__import__", "pickle.load", "pickle.loads", "os.system", "os.popen"}
        for call in calls(tree):
            function = dotted(call.func)
            assert function not in forbidden, f"{name}:{call.lineno} calls {function}"
            assert not function.endswith(".extractall"), f"{name}:{call.lineno} unpacks an archive"
            options = {k.arg: k.value.value for k in call.keywords if isinstance(k.value, ast.Constant)}
            assert not options.get("shell"), f"{name}:{call.lineno} starts a shell"
            assert options.get("allow_pickle") is not True, f"{name}:{call.lineno} unpickles"
            if function == "torch.jit.load":  # runs code, with --trust-code and for a file that the user names
                assert name == "engine/metrics/extractor.py"
            if function == "torch.load":
                assert options.get("weights_only") is True, f"{name}:{call.lineno} loads without weights_only=True"
            if function in ("np.load", "numpy.load"):
                assert options.get("allow_pickle") is False, f"{name}:{call.lineno} loads without allow_pickle=False"
        bare = [n.lineno for n in ast.walk(tree) if isinstance(n, ast.ExceptHandler) and n.type is None]
        assert not bare, f"{name}: bare except in lines {bare}"


def test_text_is_read_and_written_as_utf8_whatever_the_locale() -> None:
    """By `read_text` and `write_text` of files.py; what is opened otherwise is bytes, or names its encoding."""
    others = {"os.open", "Image.open", "folder.open"}  # not Path.open
    for name, tree in TREES.items():
        for call in calls(tree):
            function, place = dotted(call.func), f"{name}:{call.lineno}"
            given = {keyword.arg for keyword in call.keywords}
            assert not {"text", "universal_newlines"} & given, f"{place}: text=True takes the locale's encoding"
            if isinstance(call.func, ast.Attribute) and call.func.attr in ("read_text", "write_text"):
                assert "encoding" in given, f"{place}: files.py has one that drops byte order marks"
            elif function.rpartition(".")[2] == "open" and function not in others:
                mode = ast.unparse(call.args[0]) if call.args else ""
                assert "b" in mode or "encoding" in given, f"{place}: text without an encoding"


def test_trees_are_removed_in_one_place_only() -> None:
    users = {name for name, tree in TREES.items() for call in calls(tree) if dotted(call.func) == "shutil.rmtree"}
    assert users <= {"engine/files.py"}


def test_sizes() -> None:
    for path in FILES:
        assert len(path.read_text().splitlines()) <= 300, f"{path} has more than 300 lines"
    for name, tree in TREES.items():
        for node in ast.walk(tree):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                length = (node.end_lineno or 0) - node.lineno + 1
                assert length <= 60, f"{name}: {node.name} has {length} lines"


def test_minimum_versions_of_what_reads_foreign_files() -> None:
    text = (ROOT.parent / "pyproject.toml").read_text()
    assert '"torch>=2.10"' in text
    assert '"pydicom>=3.0.2"' in text
