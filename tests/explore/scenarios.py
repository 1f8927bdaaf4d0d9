"""Who works on the day at once, and what they find there."""
from memory import STAGE
from search import Scenario, Violation, expected


def empty(day): day.land('a', ('k1', 1), ('k2', 1), (None, 1))


def one_commit(day):
    "A day with a commit, and a landing file that it does not know"
    empty(day)
    day.run('aaaaaaaa')
    day.land('b', ('k1', 2), ('k3', 1))


def interrupted(day):
    "The second commit is made, and nothing of it is visible yet"
    one_commit(day)
    day.killed('000002.json', name='bbbbbbbb')
    day.land('c', ('k2', 2), (None, 2))


def half_staged(day):
    "A run was killed while it copied"
    one_commit(day)
    day.killed('part-00001-c000002', name='bbbbbbbb')


def run(**how): return lambda day: day.run(**how)
def repair(name): return lambda day: day.repair(name)
def lands(day): day.land('d', ('k2', 3), ('k4', 1))


def two_in_a_row(day):
    day.run(files=3)
    day.land('e', ('k2', 4))
    return day.run(files=1)


def reads(day):
    "A reader of whom each request is a step, too"
    number, rows = day.read()
    before, STAGE.pause = STAGE.pause, None
    try: right = expected(day, number)
    finally: STAGE.pause = before
    if sorted(rows) != right: raise Violation(f'a slow reader of commit {number} sees other rows than it has')
    return number


SCENARIOS = [Scenario(name, begin, actors) for name, begin, actors in (
    ('two runs', one_commit, (('run 1', run()), ('run 2', run(files=1)))),
    ('two first runs', empty, (('run 1', run(files=1)), ('run 2', run()))),
    ('a run and a repair', one_commit, (('run', run()), ('repair', repair('abababab')))),
    ('a run and a repair, after a kill while copying', half_staged, (('run', run()), ('repair', repair('abababab')))),
    ('two runs, after a kill at the commit', interrupted, (('run 1', run()), ('run 2', run(files=1)))),
    ('a run and a repair, after a kill at the commit', interrupted, (('run', run()), ('repair', repair('abababab')))),
    ('a rebuild and a run', one_commit, (('rebuild', run(reprocess=True)), ('run', run(files=3)))),
    ('a rebuild and a repair', interrupted, (('rebuild', run(reprocess=True)), ('repair', repair('abababab')))),
    ('two repairs', half_staged, (('repair 1', repair('abababab')), ('repair 2', repair('cdcdcdcd')))),
    ('two runs, and a file lands', one_commit, (('run 1', run()), ('run 2', run(files=1)), ('lander', lands))),
    ('two runs and a repair', one_commit, (('run 1', run()), ('run 2', run()), ('repair', repair('abababab')))),
    ('two runs in a row and a reader', one_commit, (('runs', two_in_a_row), ('reader', reads))))]
