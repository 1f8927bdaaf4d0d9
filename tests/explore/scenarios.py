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


def with_log(day):
    "The table has a Delta log, which knows the first commit"
    day.delta = True
    one_commit(day)


def lagging(day):
    "The second commit is visible, and the log does not know it"
    with_log(day)
    day.killed('00001.json', name='bbbbbbbb')


def with_log_of_two(day):
    "Two days have landed, and none is known to the log that is asked for"
    day.delta = True
    empty(day)
    day.next_day().land('n', ('k9', 1))


def two_commits_kept(day):
    "Superseded files stay"
    day.hours = 48
    one_commit(day)
    day.run('bbbbbbbb')
    day.land('c', ('k2', 2), (None, 2))


def two_logged(day):
    day.delta = True
    two_commits_kept(day)


def rolled_back(day):
    two_commits_kept(day)
    day.roll_back(1)


def run(**how): return lambda day: day.run(**how)
def repair(name): return lambda day: day.repair(name)
def lands(day): day.land('d', ('k2', 3), ('k4', 1))


def two_in_a_row(day):
    day.run(files=3)
    day.land('e', ('k2', 4))
    return day.run(files=1)


def reads(day):
    "A reader of whom each request is a step, too"
    return compared(day, *day.read())


def compared(day, number, rows):
    before, STAGE.pause = STAGE.pause, None
    try: right = expected(day, number)
    finally: STAGE.pause = before
    if sorted(rows) != right: raise Violation(f'a slow reader of commit {number} sees other rows than it has')
    return number


def runs_the_next_day(day): return day.next_day().run()
def rolls_back(day): return day.roll_back(1)
def releases(day): return day.release()
def expires(day): return day.expire()


def reads_the_log(day):
    "A reader of the Delta log of whom each request is a step"
    return compared(day, *day.read_log())


SCENARIOS = [Scenario(name, begin, actors) for name, begin, actors in (
    ('two runs', one_commit, (('run 1', run()), ('run 2', run(files=1)))),
    ('two first runs', empty, (('run 1', run(files=1)), ('run 2', run()))),
    ('a run and a repair', one_commit, (('run', run()), ('repair', repair('abababab')))),
    ('a run and a repair, after a kill while copying', half_staged, (('run', run()), ('repair', repair('abababab')))),
    ('two runs, after a kill at the commit', interrupted, (('run 1', run()), ('run 2', run(files=1)))),
    ('a run and a repair, after a kill at the commit', interrupted, (('run', run()), ('repair', repair('abababab')))),
    ('a reprocess and a run', one_commit, (('reprocess', run(reprocess=True)), ('run', run(files=3)))),
    ('a reprocess and a repair', interrupted, (('reprocess', run(reprocess=True)), ('repair', repair('abababab')))),
    ('two repairs', half_staged, (('repair 1', repair('abababab')), ('repair 2', repair('cdcdcdcd')))),
    ('two runs, and a file lands', one_commit, (('run 1', run()), ('run 2', run(files=1)), ('lander', lands))),
    ('two runs and a repair', one_commit, (('run 1', run()), ('run 2', run()), ('repair', repair('abababab')))),
    ('two runs in a row and a reader', one_commit, (('runs', two_in_a_row), ('reader', reads))),
    ('two runs, and a Delta log', with_log, (('run 1', run()), ('run 2', run(files=1)))),
    ('a run and a repair, and a Delta log', with_log, (('run', run()), ('repair', repair('abababab')))),
    ('a run and a repair, after a kill before the log', lagging, (('run', run()), ('repair', repair('abababab')))),
    ('two days, and one Delta log', with_log_of_two, (('run', run()), ('run of the next day', runs_the_next_day))),
    ('two runs in a row and a reader of the log', with_log, (('runs', two_in_a_row), ('reader', reads_the_log))),
    ('a roll back and a run', two_commits_kept, (('roll back', rolls_back), ('run', run()))),
    ('a roll back and a repair', two_commits_kept, (('roll back', rolls_back), ('repair', repair('abababab')))),
    ('a roll back, a run and a Delta log', two_logged, (('roll back', rolls_back), ('run', run()))),
    ('a roll back and one that expires', two_commits_kept, (('roll back', rolls_back), ('expire', expires))),
    ('a run, and one that expires', two_logged, (('run', run()), ('expire', expires))),
    ('a release and a run', rolled_back, (('release', releases), ('run', run()))),
    ('a release and a reprocess', rolled_back, (('release', releases), ('reprocess', run(reprocess=True)))))]
