"""What developers do all day: git and a compiler."""

from __future__ import annotations

from benchmarks.fixtures import GIT, GIT_ENVIRONMENT
from benchmarks.peers import Mounted
from benchmarks.session import Session
from benchmarks.workloads.registry import Sample, Samples, workload


def _git(session: Session, mounted: Mounted, *arguments: str) -> float:
    return session.command(mounted, *GIT, *arguments, environment=GIT_ENVIRONMENT)


@workload("git", tools=("git",))
def git(session: Session) -> Samples:
    """A new repository over a tree that is in the lower."""
    with session.mounted(session.fixtures.changed, changes=True) as mounted:
        _git(session, mounted, "init", "-q", "-b", "main")
        yield Sample("git add", _git(session, mounted, "add", "-A"))
        yield Sample("git commit", _git(session, mounted, "commit", "-q", "-m", "first"))
        yield Sample("git status", _git(session, mounted, "status", "--short"))


@workload("checkout", changes_lower=True, tools=("git",))
def checkout(session: Session) -> Samples:
    """A repository in the lower; the other branch changes, adds and removes files."""
    with session.mounted(session.fixtures.repository, changes=True) as mounted:
        # The index was written beside another device number: let git look at every file once.
        _git(session, mounted, "status", "--short")
        yield Sample("git checkout", _git(session, mounted, "checkout", "-q", "other"))


@workload("compile", tools=("make", "cc", "ar"))
def compile_c(session: Session) -> Samples:
    with session.mounted(session.fixtures.sources, changes=True) as mounted:
        yield Sample("compile", session.command(mounted, "make", "-s"))
