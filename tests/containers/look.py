"""Print what a tree holds, as JSON: run in the namespace where it can be seen."""

import json
import sys
from pathlib import Path

from tests.mounted.trees import snapshot


def main() -> None:
    entries = {
        path: [value.hex() if isinstance(value, bytes) else value for value in entry]
        for path, entry in snapshot(Path(sys.argv[1])).items()
    }
    json.dump(entries, sys.stdout, default=bytes.hex)


if __name__ == "__main__":
    main()
