"""Run the benchmarks and print one JSON line per measurement on standard output.

``python -m bench [GROUP,GROUP...]``; every row is a ratio to a reference measured alternately in the same run (below 1 is faster).
"""

from __future__ import annotations

import json
import sys
from importlib import import_module

from eo_ssl.errors import UserError, suggest_nearest

DEFAULT = ("load", "open", "ingest", "train", "evaluate")
GROUPS = (*DEFAULT, "robustness", "pairs", "adaptation", "curate", "duplicates")


def main() -> None:
    chosen = [name for argument in sys.argv[1:] for name in argument.split(",") if name] or list(DEFAULT)
    for group in chosen:
        if group not in GROUPS:
            raise SystemExit(
                str(
                    UserError(
                        f"expected benchmark groups out of {', '.join(GROUPS)}, got {group!r}{suggest_nearest(group, GROUPS)}"
                    )
                )
            )
        for row in import_module(f"bench.{group}").run():
            print(json.dumps(row), flush=True)


if __name__ == "__main__":
    main()
