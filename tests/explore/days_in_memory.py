"""A day in memory, and those who work on it: runs, repairs, readers, a lander.

All that touches the store is the job's own. What decides and copies are stand-ins of the same shape, because real
ones cost a hundred times as much and touch nothing else: a file holds JSON rows (key, version, landing file, row).
"""
import json
from collections import namedtuple
from contextlib import contextmanager
from datetime import date, datetime
from functools import lru_cache
from types import SimpleNamespace

import pyarrow as pa
from memory import CLOCK, IN_MEMORY, STAGE, Memory, fault_of, replaced

from chargeback_consolidation import delta, job, ledger, plan, repair, state
from chargeback_consolidation.catalog import Partition, Table
from chargeback_consolidation.commands import going_back
from chargeback_consolidation.copying import create_once
from chargeback_consolidation.layout import CONSOLIDATED, Held, add_readers, lay_out
from chargeback_consolidation.ledger import read_manifest
from chargeback_consolidation.repair import causes_of
from chargeback_consolidation.sample.lake import run_words
from chargeback_consolidation.settings import parse
from chargeback_consolidation.store import FileEntry, SourceChanged, store_for
from chargeback_consolidation.versions import Index
from chargeback_consolidation.writer import Copied, WrittenFile

DAY = date(2025, 11, 2)
SCHEMA = pa.schema([('chargeback_id', pa.string())])
ROOTS = {'local': '/lake', 's3': 's3://lake'}

Row = namedtuple('Row', 'key version file row')
Note = namedtuple('Note', 'rows bytes digest counts error cause content spark first_event schema')


def rows_of(data): return [Row(*row) for row in json.loads(data)]
def data_of(rows): return json.dumps(rows).encode()
def weight_of(rows): return sum(hash_of(r.key) for r in rows) % 2**64


@lru_cache(None)
def hash_of(key): return int.from_bytes(key.encode().ljust(8, b'.')[:8], 'little')


def best_of(rows):
    "Of each key the row that stays"
    best = {}
    for row in rows:
        if row.key is not None and (row.key not in best or rank(row) > rank(best[row.key])): best[row.key] = row
    return best


def rank(row): return row.version, row.file, row.row


def index_of(session, sources, stores, day, *more):
    "Stand-in of `build_index`"
    notes = {}
    for s in sources:
        try: rows = content_of(s, stores)
        except SourceChanged as e:
            notes[s.id] = Note(0, 0, 0, {}, 'changed', str(e), [], '', 0, None)
            continue
        without = sum(r.key is None for r in rows)
        digest = weight_of([r for r in rows if r.key is not None])
        notes[s.id] = Note(len(rows), 100 * len(rows), digest, {'null_key': without}, '', '', rows, '', 0, None)
    return Index(notes, None)


def content_of(source, stores):
    if source.id < CONSOLIDATED: return rows_of(stores[0].read(FileEntry(source.path, source.size, source.etag)))
    data = stores[1].load(source.path)
    if data is None: raise SourceChanged(f'{source.path} is gone')
    return rows_of(data)


def decide(run, state, index, bad):
    "Stand-in of `decide`"
    aside = plan.set_aside_now(state, index.notes, bad)
    used = {i: n for i, n in index.notes.items() if i not in aside}
    best = best_of(row for n in used.values() for row in n.content)
    lost = {i: [p for p, row in enumerate(n.content) if row.key is not None and best[row.key] != row]
            for i, n in used.items()}
    lost = {i: places for i, places in lost.items() if places}
    digest = sum(weight_of([used[i].content[p] for p in places]) for i, places in lost.items()) % 2**64

    def held(i):
        n = used[i]
        return Held(i, n.rows - len(lost.get(i, ())) - n.counts['null_key'], n.rows, n.bytes)
    consolidated, new = (sorted(i for i in used if (i >= CONSOLIDATED) == kind) for kind in (True, False))
    slots = lay_out([held(i) for i in consolidated], [held(i) for i in new], run.settings.output_file_count,
                    state.reprocess)
    slots = add_readers(slots, [i for i in new if used[i].counts['null_key']])
    work = bool(new or plan.remembering(aside)) or any(s.keeps is None for s in slots)
    run.facts.update(records_processed=sum(used[i].rows for i in new), set_aside=tuple(aside.values()))
    return plan.Plan(used, aside, SCHEMA, 'us', lost, digest, (), slots, sum(used[i].rows for i in new),
                     sum(n.rows for n in used.values()), work, ())


def copy_slots(session, parts, schema, unit, paths, codec, stores, root, *more):
    "Stand-in of `copy_slots`: reads its sources again, and stages what it writes"
    written = {}
    for slot, pieces in parts.items():
        rows, without, bad = [], [], []
        for part in pieces:
            source = part.source
            try: content = content_of(source, stores)
            except SourceChanged as e:
                bad.append((source.id, 'changed', str(e)))
                continue
            drop = set(part.drop)
            stay = [row for p, row in enumerate(content) if p not in drop and row.key is not None]
            rows += stay[part.skip:part.skip + part.take]
            if not part.skip: without += [row for row in content if row.key is None]
        written[slot] = Copied(bad=tuple(bad)) if bad else stage_slot(stores[1], paths(slot), rows, without)
    return written


def stage_slot(store, paths, rows, without):
    file = write(store, paths.file, rows, weight_of(rows)) if rows else None
    aside = write(store, paths.quarantine, without, 0) if without else None
    if file:
        create_once(store, paths.lineage, data_of([(row.file, row.row) for row in rows]))
        file = file._replace(lineage=paths.lineage)
    return Copied(file, aside)


def write(store, path, rows, digest):
    sink = store.stage(path)
    sink.write(data_of(rows))
    sink.close()
    return WrittenFile(path, len(rows), sink.size, sink.token, 1, digest)


class Clock(datetime):
    "It is an hour after all commits"

    @classmethod
    def now(cls, tz=None): return cls(2025, 11, 3, 1, tzinfo=tz)


AT = '2025-11-03 00:00:00'


def footer_of(sink):
    "Stand-in of `footer`: of what was just staged"
    staged = STAGE.memory.files.get(getattr(sink, 'hidden', ''))
    data = staged if staged is not None else STAGE.memory.uploads[sink.token.split(' ')[0]][1]
    return SimpleNamespace(num_rows=len(rows_of(data)))


@lru_cache(10000)
def manifest_of(taken): return ledger.write_manifest(taken)


@lru_cache(10000)
def taken_in(data): return tuple(read_manifest(data))


PURE = (    # functions that are asked the same again and again
    (ledger, 'read_commit', lru_cache(10000)(ledger.read_commit)),
    (ledger, 'read_manifest', lambda data: list(taken_in(data))),
    (job, 'write_manifest', lambda taken: manifest_of(tuple(taken))))

STAND_INS = PURE + (
    (ledger, 'datetime', Clock), (delta, 'time', CLOCK), (going_back, 'footer', footer_of),
    (going_back, 'stamp', lambda commit, message: dict(causes_of(commit), message=message, at=AT)),
    (job, 'build_index', index_of), (job, 'decide', decide), (job, 'copy_slots', copy_slots),
    (job, 'forget', lambda index: None), (job, 'record_of', lambda report: dict(report.__dict__, at=AT, versions={})),
    (plan, 'check_verdict', lambda *args: None), (plan, 'check_versions', lambda *args: None))


@contextmanager
def in_memory(kind, gone=404):
    "All stores are in memory meanwhile. kind: 'local' or 's3'. gone: the answer about an upload that is gone"
    STAGE.memory, STAGE.pause, STAGE.fault, STAGE.gone = Memory(), None, fault_of(kind), gone
    with replaced(IN_MEMORY + STAND_INS): yield Day(kind)


@lru_cache(None)
def settings_of(output, day, files, reprocess, delta, hours):
    return parse(run_words(
        '/catalog', output_path=output, output_file_count=files, partition_date=day, reprocess=reprocess,
        delta_log=delta, keep_superseded_hours=hours))


class Day:
    "One day of a table in memory. delta: the table has a Delta log. hours: superseded files stay so long"

    def __init__(self, kind, day=DAY):
        root = ROOTS[kind]
        self.kind, self.root, self.output, self.delta, self.hours = kind, root, f'{root}/out', False, 0
        self.table = Table('landing.chargebacks', f'{root}/landing/chargebacks')
        self.partition = Partition(day, (f'{self.table.location}/{day:%Y/%m/%d}',))

    @property
    def ledger(self): return ledger.Ledger(store_for(self.output), self.output, self.partition.day, delta=self.delta)

    def next_day(self):
        "Another day of the same table"
        other = Day(self.kind, date(2025, 11, 3))
        other.delta, other.hours = self.delta, self.hours
        return other

    def settings(self, files, reprocess):
        return settings_of(self.output, str(self.partition.day), files, reprocess, self.delta, self.hours)

    def land(self, name, *keys):
        "A landing file of (key, version) pairs"
        rows = [Row(key, version, name, i) for i, (key, version) in enumerate(keys)]
        STAGE.step('land', f'{self.partition.locations[0]}/{name}.parquet', lambda: STAGE.memory.put(
            f'{self.partition.locations[0]}/{name}.parquet', data_of(rows)), True)

    def run(self, name='', files=2, reprocess=False):
        "The status of a run, or the exception it ended with"
        run = state.start_run(self.settings(files, reprocess), self.table, self.partition, lambda: None)
        if name: run.name = name
        return job.consolidate(run).status

    def repair(self, name): return ', '.join(repair.repair(self.ledger, name)) or 'nothing to repair'

    def roll_back(self, number): return going_back.roll_back(self.ledger, number, 'babababa').kind
    def release(self): return bool(going_back.release_day(self.ledger, 'dadadada'))
    def expire(self): return going_back.expire_day(self.ledger, 0)

    def read(self):
        "What a reader sees who asks for the files and then reads them: (commit number, rows)"
        while True:
            commit, entries = ledger.snapshot(self.ledger)
            found = [self.ledger.store.load(e.path) for e in entries]
            if None in found: continue      # a later commit has superseded it
            return commit.number if commit else 0, [row for data in found for row in rows_of(data)]

    def killed(self, words, **how):
        "A run that is gone right after the first request of which these are the words"
        class Killed(BaseException): pass

        def pause(request):
            if gone: raise Killed
            gone.extend([1] * (words in str(request)))
        gone, STAGE.pause, STAGE.heard = [], pause, lambda answer: None
        try: self.run(**how)
        except Killed: return
        finally: STAGE.pause = None
        raise AssertionError(f'no request {words}')

    def log(self):
        "What a reader of the Delta log sees: ({day: commit number}, {paths of files})"
        numbers, files, store = {}, set(), self.ledger.store
        for entry in store.list(f'{self.output}/_delta_log', recursive=False):
            if not entry.path.endswith('.json'): continue
            for action in map(json.loads, store.load(entry.path).decode().splitlines()):
                if 'add' in action: files.add(action['add']['path'])
                if 'remove' in action: files.remove(action['remove']['path'])
                if 'txn' in action: numbers[action['txn']['appId'][-10:]] = action['txn']['version']
        return numbers, files

    def read_log(self):
        "What a reader sees of this day who reads the log and then the files: (commit number, rows)"
        folder = self.ledger.partition[len(self.output) + 1:]
        while True:
            numbers, files = self.log()
            paths = [f'{self.output}/{path}' for path in sorted(files) if path.startswith(folder)]
            found = [self.ledger.store.load(path) for path in paths]
            if None in found: continue      # a later commit has superseded it
            return numbers.get(str(self.partition.day), 0), [row for data in found for row in rows_of(data)]

    def listed(self):
        "The keys that a reader sees who lists the folder"
        return {row.key for path in self.visible() for row in rows_of(STAGE.memory.files[path])}

    def visible(self):
        return [path for path in STAGE.memory.below(self.ledger.partition)
                if not path.rsplit('/', 1)[-1].startswith(('_', '.'))]

    def landed(self):
        return {path.rsplit('/', 1)[-1]: rows_of(data)
                for path in STAGE.memory.below(self.partition.locations[0]) for data in [STAGE.memory.files[path]]}
