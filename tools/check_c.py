"""Compile our own C with warnings as errors.

It stands in programs/, and in the verbatim blocks of .pxd and .pyx files (``cdef extern from *``
with a docstring); what Cython generates around them is not ours.  Each file's blocks are checked
together with those of the files it cimports.
"""

import re
import subprocess
import sys
import sysconfig
from pathlib import Path

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "unionfs"
BLOCK = re.compile(
    r'^cdef extern from \*(?: nogil)?:\n    """\n(.*?)^    """', re.MULTILINE | re.DOTALL
)
CIMPORT = re.compile(r"^from unionfs\.(\w+) cimport", re.MULTILINE)
COMMAND = ["gcc", "-std=gnu11", "-fsyntax-only", "-Wall", "-Wextra", "-Werror", "-Wshadow"]
COMMAND += ["-Wno-unused-function", "-x", "c", "-"]

#: What setup.py defines for the programs.
MACROS = ["VERSION", "COMMAND", "VERB", "PYTHON", "PYTHON_NAME", "LIBRARY_PATH"]


def blocks(name: str, seen: set[str]) -> str:
    """The verbatim C that a module's .pxd and .pyx bring along, what they cimport first."""
    if name in seen:
        return ""
    seen.add(name)
    text = ""
    for source in (PACKAGE / f"{name}.pxd", PACKAGE / f"{name}.pyx"):
        if source.exists():
            code = source.read_text()
            for imported in CIMPORT.findall(code):
                text += blocks(imported, seen)
            for match in BLOCK.finditer(code):
                line = code.count("\n", 0, match.start(1)) + 1
                text += f'#line {line} "{source}"\n{match[1]}'
    return text


def main() -> int:
    """Check every module that has C of its own; returns the exit status."""
    include = f"-I{sysconfig.get_path('include')}"
    failed = checked = 0
    for source in sorted({*PACKAGE.glob("_*.pxd"), *PACKAGE.glob("_*.pyx")}):
        if BLOCK.search(source.read_text()):
            checked += 1
            text = blocks(source.stem, set())
            failed += subprocess.run([*COMMAND, include], input=text, text=True).returncode != 0
    for program in sorted((ROOT / "programs").glob("*.c")):
        checked += 1
        defined = [f'-D{name}="x"' for name in MACROS]
        directory = f"-I{program.parent}"
        command = [*COMMAND, directory, *defined]
        failed += subprocess.run(command, stdin=program.open("rb")).returncode != 0
    if not checked:
        print("no C found: has the way it is written changed?", file=sys.stderr)
    return 1 if failed or not checked else 0


if __name__ == "__main__":
    sys.exit(main())
