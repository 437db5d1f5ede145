"""Builds the Cython extensions; everything else about the package is in pyproject.toml.

The C that Cython generates is not ours to keep free of warnings, our own C is: it lives in
the verbatim blocks (``cdef extern from *``) of the .pyx and .pxd files, which Cython copies
into its output unchanged.  UNIONFS_WERROR=1 (set by ./run-tests) turns the warnings that
generated code is free of into errors, and thereby checks those blocks.
"""

import os
from pathlib import Path

from Cython.Build import cythonize
from setuptools import Extension, setup

HERE = Path(__file__).parent

# -Wno-unused-*: Cython emits helpers for every case and every function of an inlined .pxd.
# -Wno-sign-compare, -Wno-missing-field-initializers: its argument parsing and type objects.
WARNINGS = [
    "-Wall",
    "-Wextra",
    "-Wpointer-arith",
    "-Wno-unused-function",
    "-Wno-unused-parameter",
    "-Wno-unused-but-set-variable",
    "-Wno-sign-compare",
    "-Wno-missing-field-initializers",
    "-Wno-cast-function-type",
]
if os.environ.get("UNIONFS_WERROR") == "1":
    WARNINGS.append("-Werror")

extensions = [
    Extension(
        f"unionfs.{source.stem}",
        [str(source.relative_to(HERE))],
        extra_compile_args=["-O2", "-std=gnu11", "-fno-strict-aliasing", *WARNINGS],
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
