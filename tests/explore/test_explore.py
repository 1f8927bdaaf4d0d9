"""Schedules of a few actors on one day, all of them up to a few turns, and faults of the protocol that must show
(C10, C11).  `make explore` plays many more; nbs/guide/protocol.ipynb tells what this is about."""
import os

import pytest
from days_in_memory import in_memory
from mutants import MUTANTS, mutated
from scenarios import SCENARIOS
from search import Judge, Play, Violation, explore, first_state

SCHEDULES = int(os.environ.get('CHARGEBACK_EXPLORED', 30))
BY_NAME = {s.name: s for s in SCENARIOS}


def cases():
    "Each scenario in each store; a quick run plays some of those in S3"
    for number, scenario in enumerate(SCENARIOS):
        yield pytest.param(scenario, 'local', id=f'{scenario.name}-local')
        yield pytest.param(scenario, 's3', id=f'{scenario.name}-s3', marks=pytest.mark.slow if number % 4 else ())


@pytest.mark.parametrize('scenario, store', cases())
def test_every_schedule_keeps_the_day_whole(scenario, store):
    with in_memory(store) as day:
        found = explore(scenario, day, turns=3, faults=1, most=SCHEDULES)
    assert found.violation is None, found.violation.told()
    assert found.schedules >= SCHEDULES or not found.left
    assert found.checked > 1, 'nothing has changed'


@pytest.mark.parametrize('scenario', [s for s in SCENARIOS if 'kill' in s.name], ids=lambda s: s.name)
def test_an_upload_that_is_gone_may_be_answered_with_a_500(scenario):
    with in_memory('s3', gone=500) as day: found = explore(scenario, day, turns=3, faults=1, most=SCHEDULES)
    assert found.violation is None, found.violation.told()


def test_every_fault_can_still_be_put_into_the_source():
    for mutant in MUTANTS:
        with mutated(mutant): pass


@pytest.mark.parametrize(
    'mutant', [pytest.param(m, id=m.name, marks=pytest.mark.slow if n % 3 else ()) for n, m in enumerate(MUTANTS)])
def test_a_fault_of_the_protocol_is_found(mutant):
    "And told in a schedule of a few turns, at the end of which stands what does not hold"
    where = mutant.where
    with in_memory(where.store, where.gone) as day, mutated(mutant):
        found = explore(BY_NAME[where.scenario], day, where.turns, where.faults, most=1000)
    assert found.violation, f'{found.schedules} schedules, and nothing is wrong'
    assert len(found.violation.turns) <= where.turns + 1 and found.violation.told().splitlines()[-1].startswith('=> ')


def test_a_schedule_is_played_the_same_again():
    "So what is found can be looked into: its turns tell all of it"
    mutant = MUTANTS[0]
    scenario = BY_NAME[mutant.where.scenario]
    with in_memory(mutant.where.store) as day, mutated(mutant):
        found = explore(scenario, day, mutant.where.turns).violation
        play = Play(scenario, found.turns, Judge(day, first_state(scenario, day)), {})
        with pytest.raises(Violation) as again: play.run()
    assert again.value.told() == found.told() and len(found.story) > 2
