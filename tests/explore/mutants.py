"""Faults of the protocol, each of which the search must find.

A mutant is the job's own function with a few words of its source exchanged.
"""
import inspect
import textwrap
from collections import namedtuple
from contextlib import contextmanager

from memory import MODULES, replaced

from chargeback_consolidation import delta, job, ledger, local, plan, repair, s3, state
from chargeback_consolidation.commands import going_back

Mutant = namedtuple('Mutant', 'name of old new where')
Mutant.__doc__ = """name: what is wrong. of: the function. old, new: what is exchanged in its source.
where: Bounds within which it is found."""

Bounds = namedtuple('Bounds', 'scenario store turns faults gone')
Bounds.__new__.__defaults__ = (404,)

MUTANTS = [Mutant(*m[:-1], Bounds(*m[-1])) for m in (
    ('a run that has committed cleans up once others have committed after it', job.clean_up,
     """    records = [ledger.load(number) for number in run.asked]
    if any(record and record.run == run.name for record in records): return
""", """    head = ledger.head()
    if head and head.run == run.name: return
""",
     ('two first runs', 's3', 2, 0)),
    ('a run cleans up while the answer to its commit is out', job.clean_up, ' or run.unsure', '',
     ('two runs', 's3', 2, 1)),
    ('a run cleans up what others have staged', ledger.drop_staged, 'if word in path: ', '',
     ('two runs', 's3', 2, 0)),
    ('superseded files go before new ones are there', ledger.settle, '    missing, expired = ',
     '    remove_superseded(ledger, commit, sorted(there), passed)\n    missing, expired = ',
     ('two runs', 's3', 0, 0)),
    ('superseded is whatever the commit does not name', ledger.remove_superseded,
     'if p not in valid and up_to(p, commit.number)', 'if p not in valid',
     ('two runs, after a kill at the commit', 'local', 1, 0)),
    ('litter is whatever the commit does not name', ledger.remove_litter, 'if up_to(path, number) and token',
     'if token',
     ('a run and a repair', 's3', 1, 0)),
    ('origins of rows are litter if the commit does not name them', ledger.remove_litter,
     ' and up_to(path, number)]', ']',
     ('two runs', 's3', 1, 0)),
    ('manifests of numbers to come are litter', ledger.dead_manifests, 'number > commit.number or (', '(',
     ('two first runs', 's3', 2, 0)),
    ('a file that others have published, and superseded, is lost', ledger.settle, 'now.number > commit.number',
     'False',
     ('two runs', 's3', 1, 0)),
    ("a number that is taken is taken for one's own", ledger.CommitRecords.publish_commit, 'commit.data())',
     'commit.data()) or True',
     ('two runs', 's3', 1, 0)),
    ('a run that lost the race goes on as if it had won', job.consolidate, 'if publish(run, commit): return',
     'publish(run, commit); return',
     ('two runs', 's3', 1, 0)),
    ('the number is that of the moment, not that of the plan', job.commit_of, 'next_number(state), run.ledger',
     '(lambda head: head.number + 1 if head else 1)(run.ledger.head()), run.ledger',
     ('two runs', 's3', 1, 0)),
    ('a source that a later commit superseded is a broken one', plan.lost_race, 'if overtaken(run, state)',
     'if False',
     ('two runs', 's3', 1, 0)),
    ('a run plans before it has rolled the last commit forward', state.look, 'not s.dry_run, lambda', 'False, lambda',
     ('two runs', 's3', 0, 0)),
    ('the head is read before the folder is listed', ledger.open_ledger,
     '    visible = ledger.visible()\n    head = ledger.head()\n',
     '    head = ledger.head()\n    visible = ledger.visible()\n',
     ('two runs', 's3', 1, 0)),
    ('a repair takes no number', repair.repair,
     '        if not ledger.publish_commit(fence): return repair(ledger, run)\n', '',
     ('a run and a repair', 's3', 2, 0)),
    ("a repair's number names no files", repair.fence_after, "kind='repair',",
     "kind='repair', files=(),",
     ('a run and a repair, after a kill while copying', 's3', 1, 0)),
    ('a repair removes manifests of numbers to come', repair.unnamed_manifests, ' if n <= last', '',
     ('a run and a repair', 's3', 2, 0)),
    ('a repair leaves what a crash left of a record', repair.settle_temporary,
     '            ledger.store.discard(path, token)\n', '',
     ('two runs', 'local', 0, 0)),
    ('a reader knows the last commit only', ledger.snapshot, 'numbers[-2:]', 'numbers[-1:]',
     ('two runs', 's3', 0, 0)),
    ('a reader does not look whether all files are there', ledger.snapshot,
     """            if all(p in there for p in paths):
                return commit, [there[p] for p in paths]
""", """            return commit, [there[p] for p in paths if p in there]
""",
     ('two runs', 's3', 0, 0)),
    ('a reader takes a first commit on its way for damage', ledger.snapshot,
     'if not numbers or numbers == [1] and is_rolling(ledger, commit, there)', 'if not numbers',
     ('two first runs', 's3', 0, 0)),
    ('the log is told before the files are there', ledger.settle, '    missing, expired = ',
     '    tell_log(ledger, commit, passed)\n    missing, expired = ', ('two runs, and a Delta log', 's3', 1, 0)),
    ('superseded files go before the log knows', ledger.settle, '    try: tell_log(',
     '    remove_superseded(ledger, commit, sorted(there), passed)\n    try: tell_log(',
     ('two runs, and a Delta log', 's3', 1, 0)),
    ('superseded files go though the log could not be told', ledger.settle,
     'as e: return Settled(expired, unlogged=str(e))', 'as e: pass', ('two runs, and a Delta log', 's3', 1, 1)),
    ('a commit goes into the log whatever the log knows', delta.DeltaLog.follow,
     'lacking = [d for d in asked if state.numbers.get(d.day, 0) < d.number]', 'lacking = asked',
     ('two runs, and a Delta log', 's3', 2, 0)),
    ("a version that another has written counts as one's own", delta.DeltaLog.follow,
     'if not self.store.create(self.path(state.version + 1), log_bytes(actions)):',
     'if not self.store.create(self.path(state.version + 1), log_bytes(actions)) and False:',
     ('two days, and one Delta log', 's3', 2, 0)),
    ('runs do not heed that a day is held', state.state_of, 's.reprocess or not (head and head.held)', 'True',
     ('a release and a run', 's3', 1, 0)),
    ('a roll back gives up where others have swept', going_back.roll_back,
     'if not isinstance(e, StoreError) or ledger.head().number == head.number: raise', 'raise',
     ('a roll back and a repair', 's3', 1, 0)),
    ("a disk: a record whose answer was lost is another's", local.local_create, 'return self.load(path) == data',
     'return False', ('a roll back and a repair', 'local', 1, 1)),
    ('a disk: a record is renamed, not linked', local.local_create, 'os.link(', 'os.rename(',
     ('two runs', 'local', 1, 0)),
    ('a disk: what others have published counts as lost', local.LocalStaging.publish, 'return self.exists(path)',
     'return False',
     ('a run and a repair, after a kill at the commit', 'local', 1, 0)),
    ('S3: an upload that others have completed counts as lost', s3.s3_publish,
     '            if error_code(e) not in NO_UPLOAD and',
     '            if error_code(e) in NO_UPLOAD: return False\n            if',
     ('a run and a repair, after a kill at the commit', 's3', 1, 0)),
    ('S3: an upload that is gone with a 500 counts as a fault', s3.s3_publish,
     'not in NO_UPLOAD and s3_waits(self, path, upload): continue', 'not in NO_UPLOAD: continue',
     ('a run and a repair, after a kill at the commit', 's3', 1, 0, 500)),
    ("S3: a record that is there is taken for one's own", s3.s3_create, 'return self.load(path) == data',
     'return True',
     ('two runs', 's3', 1, 0)))]


@contextmanager
def mutated(mutant):
    "The job has this fault meanwhile"
    original = inspect.unwrap(mutant.of)
    source = textwrap.dedent(inspect.getsource(original))
    source = source[source.index('def '):]
    old = mutant.old if mutant.old in source else textwrap.indent(mutant.old, '    ')
    assert source.count(old) == 1, f'{mutant.name}: the source is another one now'
    module = inspect.getmodule(original)
    made = {}
    exec(compile(source.replace(old, mutant.new), module.__file__, 'exec'), module.__dict__, made)
    new = made[original.__name__]
    places = [*MODULES, *(v for m in MODULES for v in vars(m).values() if isinstance(v, type))]
    bound = [(place, name) for place in places for name, value in list(vars(place).items())
             if getattr(value, '__wrapped__', value) is original]
    assert bound, mutant.name
    with replaced([(place, name, new) for place, name in bound]): yield
