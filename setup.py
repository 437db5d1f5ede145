"""Builds the Cython extensions; everything else about the package is in pyproject.toml.

UNIONFS_WERROR=1 (set by ./run-tests) makes what Cython warns about an error.  The C that it
generates is compiled with warnings switched off: it is not ours to keep free of them.  Our own
C, which it copies unchanged from the verbatim blocks of .pyx and .pxd files, is checked by
tools/check_c.py.
"""

import os
from pathlib import Path

from Cython.Build import cythonize
from Cython.Compiler import Options
from setuptools import Extension, setup

HERE = Path(__file__).parent

Options.warning_errors = os.environ.get("UNIONFS_WERROR") == "1"

extensions = [
    Extension(
        f"unionfs.{source.stem}",
        [str(source.relative_to(HERE))],
        extra_compile_args=["-O2", "-std=gnu11", "-fno-strict-aliasing", "-w"],
        extra_link_args=["-pthread"],
    )
    for source in sorted((HERE / "unionfs").glob("_*.pyx"))
]

setup(
    ext_modules=cythonize(
        extensions,
        build_dir="build/cython",
        compiler_directives={"language_level": "3", "embedsignature": False, "cdivision": True},
    )
)
