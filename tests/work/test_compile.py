"""A C program is compiled, changed, compiled again, run and cleaned up on the mount."""

from pathlib import Path

import pytest

from tests.mounted.trees import build
from tests.work.twins import Twins, needs, run

pytestmark = [needs("gcc", "make", "ar"), pytest.mark.timeout(180)]

MODULES = 12

MAKEFILE = """\
OBJECTS = $(patsubst src/%.c,build/%.o,$(wildcard src/*.c))
CFLAGS = -O1 -g0 -Wall -Iinclude -ffile-prefix-map=$(CURDIR)=.
build/program: build/main.o build/libmodules.a
\t$(CC) -o $@ build/main.o -Lbuild -lmodules -Wl,--build-id=none
build/libmodules.a: $(filter-out build/main.o,$(OBJECTS))
\trm -f $@
\tar rcsD $@ $^
build/%.o: src/%.c include/common.h
\t@mkdir -p build
\t$(CC) $(CFLAGS) -c -o $@ $<
clean:
\trm -rf build
.PHONY: clean
"""


def make_sources(root: Path) -> None:
    calls = "".join(f"sum += module{number}();" for number in range(MODULES))
    declarations = "".join(f"int module{number}(void);" for number in range(MODULES))
    build(
        root,
        {
            "Makefile": MAKEFILE,
            "include/common.h": f"#define FACTOR 1\n{declarations}\n",
            "src/main.c": '#include <stdio.h>\n#include "common.h"\n'
            f'int main(void) {{ int sum = 0; {calls} printf("%d\\n", sum); return 0; }}\n',
        }
        | {
            f"src/module{number}.c": '#include "common.h"\n'
            f"int module{number}(void) {{ return FACTOR * {number}; }}\n"
            for number in range(MODULES)
        },
    )
    run("make", "-s", cwd=root)


def test_build_change_rebuild_run_and_clean(twins: Twins) -> None:
    def job(root: Path) -> list[str]:
        outputs = [run("make", "-q", cwd=root), run("./build/program", cwd=root)]
        # A header of the same length: only its time tells make what to do.
        header = root / "include/common.h"
        header.write_text(header.read_text().replace("FACTOR 1", "FACTOR 3"))
        outputs.append(run("make", "-j2", "--output-sync=none", cwd=root).count("-c -o") * "x")
        outputs.append(run("./build/program", cwd=root))
        run("make", "clean", cwd=root)
        outputs.append(" ".join(sorted(path.name for path in root.iterdir())))
        run("make", "-s", "-j2", cwd=root)
        outputs.append(run("./build/program", cwd=root))
        outputs.append(run("make", "-q", cwd=root))
        run("strip", "build/program", cwd=root)
        outputs.append(run("./build/program", cwd=root))
        return outputs

    twins.work(make_sources, job)
