"""Builds what is native; everything else about the package is in pyproject.toml.

UNIONFS_WERROR=1 (set by ./run-tests) makes what Cython warns about an error.  The C that it
generates is compiled with warnings switched off: it is not ours to keep free of them.  Our own
C, which it copies unchanged from the verbatim blocks of .pyx and .pxd files, is checked by
tools/check_c.py, as are the programs in C.
"""

import os
import runpy
import sys
from pathlib import Path

from Cython.Build import cythonize
from Cython.Compiler import Options
from setuptools import Extension, setup  # before distutils, which it brings along

# isort: split
from distutils.ccompiler import new_compiler
from distutils.command.build_scripts import build_scripts
from distutils.sysconfig import customize_compiler

HERE = Path(__file__).parent
VERSION = runpy.run_path(str(HERE / "unionfs/version.py"))["VERSION"]

#: How many modules are translated and compiled at a time.
JOBS = len(os.sched_getaffinity(0))

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


def library_path(value: str) -> str:
    """The directories of an LD_LIBRARY_PATH; others, "" too, begin where a command is run, and
    whoever can write there would choose what root loads."""
    return ":".join(filter(os.path.isabs, value.replace(";", ":").split(":")))


PYTHON_NAME = "python{}.{}".format(*sys.version_info)
# What programs/command.c is told.  The interpreter is not that of an environment made for the
# build, which is gone, or somebody else's, when the command runs.
PYTHON = {
    "PYTHON": getattr(sys, "_base_executable", sys.executable),
    "PYTHON_NAME": PYTHON_NAME,
    "LIBRARY_PATH": library_path(os.environ.get("LD_LIBRARY_PATH", "")),
}
#: The commands, each with its source and the macros that it is compiled with.
PROGRAMS = {
    "unionfs-quickmount": ("programs/quickmount.c", {"VERSION": VERSION}),
    **{
        name: ("programs/command.c", {"COMMAND": name, "VERB": verb, **PYTHON})
        for name, verb in (
            ("unionfs-check", "check"),
            ("unionfs-mount", "mount"),
            ("unionfs-mountd", "mountd"),
            ("unionfs-status", "status"),
            ("unionfs-where", "where"),
            # What umount(8) looks for: "umount." and the filesystem's type.
            ("umount.fuse.unionfs-mount", "umount"),
        )
    },
}


class BuildPrograms(build_scripts):
    """Scripts that are programs in C: what is installed as a command is compiled."""

    def run(self) -> None:
        compiler = new_compiler()
        customize_compiler(compiler)
        # tools/sanitize.py builds beside others, and what it compiles with it has to link with.
        flags = os.environ.get("LDFLAGS", "").split()
        objects_dir = Path(self.get_finalized_command("build").build_temp)
        self.mkpath(self.build_dir)
        for program, (source, macros) in PROGRAMS.items():
            objects = compiler.compile(
                [source],
                output_dir=str(objects_dir / program),
                macros=[(name, f'"{value}"') for name, value in macros.items()],
                extra_preargs=["-O2", "-std=gnu11"],
            )
            compiler.link_executable(
                objects, program, output_dir=self.build_dir, extra_postargs=flags
            )


setup(
    ext_modules=cythonize(
        extensions,
        build_dir="build/cython",
        nthreads=JOBS if JOBS > 1 else 0,  # 0: without processes of its own
        compiler_directives={"language_level": "3", "embedsignature": False, "cdivision": True},
    ),
    # Of these are PROGRAMS made.
    scripts=["programs/beside.h", "programs/command.c", "programs/quickmount.c"],
    options={"build_ext": {"parallel": JOBS}},
    cmdclass={"build_scripts": BuildPrograms},
)
