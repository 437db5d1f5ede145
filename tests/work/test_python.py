"""Python packages and a virtual environment work on the mount as on a plain directory."""

import sys
from pathlib import Path

import pytest

from tests.mounted.trees import build
from tests.work.twins import Twins, run

pytestmark = pytest.mark.timeout(180)

# Byte code that names no time: the same source gives the same file.
CHECKED = {"PYTHONDONTWRITEBYTECODE": ""}


def make_package(root: Path) -> None:
    build(
        root,
        {"package/__init__.py": "from . import sub\nTOTAL = sub.total()\n"}
        | {
            "package/sub/__init__.py": "import importlib\n"
            "def total():\n"
            "    names = (f'.module{number}' for number in range(30))\n"
            "    return sum(importlib.import_module(name, __name__).VALUE for name in names)\n",
        }
        | {f"package/sub/module{number}.py": f"VALUE = {number}\n" * 20 for number in range(30)},
    )


def test_import_compile_change_and_import_again(twins: Twins) -> None:
    def python(root: Path, *words: str) -> str:
        return run(sys.executable, *words, cwd=root, environment=CHECKED)

    def total(root: Path) -> str:
        return python(root, "-c", "import package; print(package.TOTAL)")

    def job(root: Path) -> list[str]:
        hashed = ("-q", "--invalidation-mode", "checked-hash", "package")
        outputs = [total(root)]
        python(root, "-m", "compileall", "-f", *hashed)
        outputs.append(total(root))
        (root / "package/sub/module7.py").write_text("VALUE = 1000\n")
        (root / "package/sub/module8.py").unlink()
        (root / "package/sub/module8").mkdir()
        (root / "package/sub/module8/__init__.py").write_text("VALUE = 2000\n")
        outputs.append(total(root))
        python(root, "-m", "compileall", "-f", *hashed)
        python(root, "-m", "zipfile", "-c", "package.zip", "package")
        outputs.append(
            python(root, "-c", "import sys; sys.path.insert(0, 'package.zip'); import package;"
                               "print(package.TOTAL, 'package.zip' in package.__file__)")
        )  # fmt: skip
        return outputs

    def make(root: Path) -> None:
        make_package(root)
        python(root, "-m", "compileall", "-q", "--invalidation-mode", "checked-hash", "package")

    twins.work(make, job, leave_out=["package.zip"])


def test_virtual_environment(twins: Twins) -> None:
    def make(root: Path) -> None:
        make_package(root)
        (root / "where").mkdir()

    def job(root: Path) -> list[str]:
        run(sys.executable, "-m", "venv", "--without-pip", "where/venv", cwd=root)
        interpreter = root / "where/venv/bin/python"
        outputs = [
            run(interpreter, "-c", "import sys; print(sys.prefix != sys.base_prefix)", cwd=root)
        ]
        site = next((root / "where/venv/lib").glob("python3*")) / "site-packages"
        run("cp", "-r", "package", site, cwd=root)
        outputs.append(
            run(interpreter, "-c", "import package; print(package.TOTAL)", cwd=root / "where")
        )
        run(sys.executable, "-m", "venv", "--without-pip", "--clear", "where/venv", cwd=root)
        outputs.append(
            run(interpreter, "-c", "import package", cwd=root / "where", accept=[1]).splitlines()[
                -1
            ]
        )
        return outputs

    twins.work(make, job)
