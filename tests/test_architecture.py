"""The walls of the house: import-linter's contracts hold, and light commands stay light."""

import subprocess
import sys
from pathlib import Path

from importlinter.cli import lint_imports

ROOT = Path(__file__).parents[1]


def test_import_contracts_hold(monkeypatch, capsys) -> None:
    monkeypatch.chdir(ROOT)
    monkeypatch.syspath_prepend(str(ROOT))
    code = lint_imports(config_filename=str(ROOT / "pyproject.toml"), cache_dir=None, no_cache=True)
    assert code == 0, capsys.readouterr().out


def heavy_modules(*arguments: str) -> str:
    """What of the heavy libraries a command has imported, as it says itself."""
    script = (
        "import sys\n"
        "from pipelines.cli import run_command\n"
        f"code = run_command({list(arguments)!r})\n"
        "heavy = {'torch', 'ray', 'monai', 'numpy', 'pyarrow', 'pydicom', 'scipy', 'pandas'}\n"
        "print('exit', code, 'imported', sorted(heavy & set(sys.modules)))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=True
    )
    return done.stdout.splitlines()[-1]


def test_help_and_info_import_nothing_heavy() -> None:
    assert heavy_modules("--help") == "exit 0 imported []"
    assert heavy_modules("run", "--help") == "exit 0 imported []"
    assert heavy_modules("info") == "exit 0 imported []"
    assert heavy_modules("info", "--json") == "exit 0 imported []"


def test_a_run_drives_without_ray_until_there_is_something_to_compute() -> None:
    script = "import sys; import pipelines.driver; print(sorted({'ray', 'torch'} & set(sys.modules)))"
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "[]"
