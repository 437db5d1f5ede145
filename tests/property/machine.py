"""The state machine: hypothesis draws the lowers and the steps; what fails is cut to a script."""

import itertools
import os
from pathlib import Path

from hypothesis import HealthCheck, Phase, settings
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    precondition,
    rule,
    run_state_machine_as_test,
)

from .comparison import Comparison, Difference, replay
from .minimise import Script, minimise
from .operations import Step
from .steps import ON_OPEN_FILES, Draw, resolve
from .trees import Dir
from .unions import Reference, Union

#: How many sequences a run takes.
SEQUENCES = int(os.environ.get("UNIONFS_SEQUENCES", 300))
SETTINGS = settings(
    max_examples=SEQUENCES,
    stateful_step_count=30,
    phases=(Phase.generate,),  # see minimise.py
    database=None,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
    print_blob=False,
)

_numbers = itertools.count()


def compare(
    arena: Path,
    reference: Reference,
    subject: Union,
    *,
    sequences: int | None = None,
    draw: Draw | None = None,
) -> None:
    """Compare two unions by random sequences, in fresh directories below `arena`.

    Raises the `Difference` of a minimal script.
    """
    some = settings(SETTINGS, max_examples=sequences or SETTINGS.max_examples)
    machine = _machine(arena, reference, subject, draw or Draw())
    try:
        run_state_machine_as_test(machine, settings=some)
    except Difference as found:
        failures, where = [found], found.where

        def fails(script: Script) -> bool:
            try:
                replay(_fresh(arena), reference, subject, *script)
            except Difference as difference:
                if difference.where == where:
                    failures.append(difference)
                    return True
            return False

        minimise((found.lowers, found.steps), fails)
        raise failures[-1] from None


def _fresh(arena: Path) -> Path:
    return arena / f"sequence{next(_numbers)}"


def _machine(
    arena: Path, reference: Reference, subject: Union, draw: Draw
) -> type[RuleBasedStateMachine]:
    class Machine(RuleBasedStateMachine):
        comparison: Comparison | None = None
        agree = True

        @initialize(lowers=draw.lowers)
        def mount(self, lowers: list[Dir]) -> None:
            self.comparison = Comparison(_fresh(arena), reference, subject, lowers)

        def perform(self, step: Step) -> None:
            assert self.comparison
            self.agree = False
            self.comparison.perform(resolve(step, self.comparison.choices()))
            self.agree = True

        def teardown(self) -> None:
            if not self.comparison:
                return
            try:
                if self.agree:
                    self.comparison.finish()
            finally:
                self.comparison.close()

    def holds_files(machine: Machine) -> bool:
        return bool(machine.comparison and machine.comparison.holds_files)

    for name, steps in draw.rules.items():
        operation = rule(step=steps)(Machine.perform)
        if name in ON_OPEN_FILES:
            operation = precondition(holds_files)(operation)
        setattr(Machine, name, operation)
    return Machine
