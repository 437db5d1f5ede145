"""A database in WAL mode, written by several processes at once, is whole and complete."""

import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest

from tests.work.twins import Twins

pytestmark = pytest.mark.timeout(180)

WRITERS = 4
ROWS = 150

# What one process does: many small transactions, some of them rolled back, reading in between.
WORKER = """
import sqlite3, sys
path, writer, rows = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
database = sqlite3.connect(path, timeout=60, isolation_level=None)
database.execute("PRAGMA synchronous = NORMAL")
for number in range(rows):
    database.execute("BEGIN IMMEDIATE")
    database.execute(
        "INSERT INTO entries VALUES (?, ?, ?)", (writer, number, f"{writer}:{number};" * 50)
    )
    database.execute("UPDATE counters SET value = value + 1")
    if number % 10 == 9:
        database.execute("ROLLBACK")
    else:
        database.execute("COMMIT")
    entries, counter = database.execute(
        "SELECT (SELECT count(*) FROM entries), (SELECT value FROM counters)"
    ).fetchone()
    assert entries == counter, (entries, counter)
    if number % 50 == 25:
        database.execute("PRAGMA wal_checkpoint(PASSIVE)")
database.close()
"""


def test_wal_under_load(twins: Twins) -> None:
    def make(root: Path) -> None:
        with closing(sqlite3.connect(root / "data.db")) as database:
            database.execute("PRAGMA journal_mode = WAL")
            database.execute(
                "CREATE TABLE entries (writer, number, text, PRIMARY KEY (writer, number))"
            )
            database.execute("CREATE TABLE counters (value)")
            database.execute("INSERT INTO counters VALUES (500)")
            database.executemany(
                "INSERT INTO entries VALUES (?, ?, ?)",
                [(-1, number, "old" * 300) for number in range(500)],
            )
            database.commit()

    def job(root: Path) -> list[object]:
        workers = [
            subprocess.Popen(
                [sys.executable, "-c", WORKER, str(root / "data.db"), str(writer), str(ROWS)],
                stderr=subprocess.PIPE,
                text=True,
            )
            for writer in range(WRITERS)
        ]
        for worker in workers:
            _, errors = worker.communicate()
            assert worker.returncode == 0, errors
        with closing(sqlite3.connect(root / "data.db")) as database:
            results: list[object] = [
                database.execute(question).fetchall()
                for question in (
                    "PRAGMA journal_mode",
                    "PRAGMA integrity_check",
                    "SELECT value FROM counters",
                    "SELECT writer, number, text FROM entries ORDER BY writer, number",
                )
            ]
            database.execute("DELETE FROM entries WHERE number % 2")
            database.commit()
            database.execute("VACUUM")
            results.append(database.execute("PRAGMA integrity_check").fetchall())
        assert results[1] == results[-1] == [("ok",)]
        return results

    # The pages' order within the file depends on who wrote when; the rows were compared above.
    twins.work(make, job, leave_out=["data.db"])
