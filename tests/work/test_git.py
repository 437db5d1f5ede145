"""git keeps a repository on the mount as it does on a plain directory, for root and for others."""

import os
from pathlib import Path

import pytest

from tests.mounted.harness import needs_root
from tests.work.twins import Twins, needs, run

pytestmark = [needs("git"), pytest.mark.timeout(180)]

IDENTITY = {
    "GIT_AUTHOR_NAME": "A U Thor",
    "GIT_AUTHOR_EMAIL": "author@example.org",
    "GIT_AUTHOR_DATE": "1700000000 +0000",
    "GIT_COMMITTER_NAME": "A U Thor",
    "GIT_COMMITTER_EMAIL": "author@example.org",
    "GIT_COMMITTER_DATE": "1700000000 +0000",
    "GIT_CONFIG_NOSYSTEM": "1",
    "GIT_CONFIG_COUNT": "3",
    "GIT_CONFIG_KEY_0": "gc.auto",
    "GIT_CONFIG_VALUE_0": "0",
    # One thread, so that the same objects give the same pack.
    "GIT_CONFIG_KEY_1": "pack.threads",
    "GIT_CONFIG_VALUE_1": "1",
    "GIT_CONFIG_KEY_2": "init.defaultBranch",
    "GIT_CONFIG_VALUE_2": "main",
}

# Holds what stat() gave when the file was added.
INDEXES = ("project/.git/index", "clone/.git/index", "shared/.git/index")


@pytest.mark.parametrize("user", [pytest.param(0, id="root"), pytest.param(1234, id="ordinary")])
@needs_root
def test_commit_clone_gc_fsck_and_checkout(twins: Twins, user: int) -> None:
    def git(directory: Path, *words: str) -> str:
        return run("git", *words, cwd=directory, user=user, environment=IDENTITY)

    def write(path: Path, content: str) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.exists():
            path.unlink()
        path.write_text(content)
        for owned in (path, path.parent):
            os.chown(owned, user, user)

    def make(root: Path) -> None:
        project = root / "project"
        project.mkdir()
        for directory in (root, project):
            os.chown(directory, user, user)
        git(project, "init", "-q")
        for revision in range(4):
            for number in range(60):
                if (number + revision) % 3:
                    write(project / f"dir{number % 5}/{number}.txt", f"{revision}{number}\n" * 50)
            git(project, "add", "-A")
            git(project, "commit", "-q", "-m", f"revision {revision}")
        git(project, "branch", "old", "HEAD~2")

    def job(root: Path) -> list[str]:
        project, clone = root / "project", root / "clone"
        outputs = []
        git(project, "checkout", "-q", "old")
        outputs.append(git(project, "status", "--porcelain"))
        write(project / "dir1/new.txt", "new\n")
        git(project, "mv", "dir2/2.txt", "dir3/moved.txt")
        git(project, "add", "-A")
        git(project, "commit", "-q", "-m", "on the old branch")
        git(project, "merge", "-q", "-s", "recursive", "-X", "ours", "-m", "merged", "main")
        git(root, "clone", "-q", "project", "clone")
        git(root, "clone", "-q", "--shared", "project", "shared")
        write(clone / "dir0/in-clone.txt", "clone\n")
        git(clone, "add", "-A")
        git(clone, "commit", "-q", "-m", "in the clone")
        git(clone, "push", "-q", "origin", "HEAD:refs/heads/pushed")
        for directory in (project, clone):
            git(directory, "gc", "-q", "--prune=now")
            outputs.append(git(directory, "fsck", "--full", "--strict"))
        git(project, "checkout", "-q", "main")
        git(project, "checkout", "-q", "pushed")
        git(project, "reset", "-q", "--hard", "HEAD~1")
        git(project, "clean", "-q", "-d", "-f", "-x")
        for directory in (project, clone):
            outputs.append(git(directory, "status", "--porcelain"))
            outputs.append(git(directory, "for-each-ref"))
            outputs.append(git(directory, "ls-tree", "-r", "HEAD"))
            outputs.append(git(directory, "count-objects"))
        return outputs

    twins.work(make, job, leave_out=INDEXES)
