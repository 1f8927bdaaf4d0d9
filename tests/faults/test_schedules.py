"""Random schedules of a day: up to three runs, repairs, reprocesses, landings and kills, interleaved at every phase
(C5, C10, C11).  A seed is a day. Its runs live in threads of which one moves at a time, from phase to phase, as the
seed says; a killed one stops for good where it stands and cleans nothing up. At every step both kinds of reader
look; in the end an undisturbed run and `repair` must leave the day that an oracle computes from the landing files,
and nothing else."""
import os
import random
import threading
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from days import DAY, LENIENT, Lake, chargebacks
from inline import inline

from chargeback_consolidation import entry, job, quality, state
from chargeback_consolidation.ledger import MANIFEST_NAME, number_of, snapshot
from chargeback_consolidation.repair import repair
from chargeback_consolidation.settings import parse

DAYS = int(os.environ.get('CHARGEBACK_SCHEDULES', 240))
GROUPS = 6
REFUSALS = (job.Conflict, state.NoData, quality.QualityFailed)


class Killed(BaseException):
    "The process is gone"


class Actor(threading.Thread):
    "A run that stops at the end of each phase until it is told to go on"

    def __init__(self, lake, **arguments):
        super().__init__(daemon=True)
        settings = parse(lake.words(**{**LENIENT, **arguments}))
        table, (partition,) = entry.plan_runs(settings)
        self.run_ = state.start_run(settings, table, partition, inline, self.observe)
        self.mine, self.theirs = threading.Semaphore(0), threading.Semaphore(0)
        self.outcome, self.doomed, self.phase = None, False, 'start'

    def observe(self, stage, seconds, facts):
        self.phase = stage
        self.theirs.release()
        self.mine.acquire()
        if self.doomed:
            self.run_.unsure = True     # a process that is gone cleans nothing up
            raise Killed

    def run(self):
        self.mine.acquire()
        try: self.outcome = job.consolidate(self.run_).status
        except Killed: self.outcome = 'killed'
        except BaseException as e: self.outcome = e
        self.theirs.release()

    def step(self):
        "One phase further"
        self.mine.release()
        assert self.theirs.acquire(timeout=60), f'stuck after {self.phase}'


def rows_in(entries):
    return [tuple(row.values()) for e in entries for row in pq.ParquetFile(e.path).read(
        columns=['chargeback_id', 'updated_at', 'status'], use_threads=False).to_pylist()]


def oracle(lake):
    "The day by its definition"
    best = {}
    for path in lake.landed():
        for number, row in enumerate(pq.ParquetFile(lake.table / path).read(use_threads=False).to_pylist()):
            rank = row['updated_at'], path, number
            if row['chargeback_id'] and (row['chargeback_id'] not in best or rank > best[row['chargeback_id']][0]):
                best[row['chargeback_id']] = rank, (row['chargeback_id'], row['updated_at'], row['status'])
    return sorted(row for _, row in best.values())


def litter(ledger):
    "What lies about that no commit names"
    store, commits = ledger.store, [ledger.load(n) for n in ledger.numbers()]
    head = commits[-1]
    named = {ledger.path(f.path) for f in head.files + head.quarantine} | {
        ledger.path(f.lineage) for f in head.files}
    manifests = {ledger.path(c.manifest) for c in commits}
    there = [e.path for folder in (ledger.partition, ledger.quarantine, ledger.folder) for e in store.list(folder)]
    strangers = [p for p in there if (number_of(p) is not None or '.staged' in p) and p not in named]
    return strangers + [p for p in there if MANIFEST_NAME.match(p.rsplit('/', 1)[-1]) and p not in manifests]


class World:
    def __init__(self, root, seed):
        self.lake, self.chance, self.landed, self.story = Lake(root), random.Random(seed), 0, []
        self.before = []    # keys of the last commit that a reader has seen
        self.ledger = Actor(self.lake).run_.ledger
        for _ in range(self.chance.randint(1, 3)): self.land()

    def land(self):
        self.landed += 1
        n = self.chance.randint(1, 6)
        keys = [self.chance.choice([f'k{i}' for i in range(9)] + [None]) for _ in range(n)]
        name = f"{self.chance.choice('abcxyz')}{self.landed}.parquet"
        status = pa.array([f'{self.landed}-{i}' for i in range(n)])
        self.lake.land(
            name, chargebacks(keys, updated=[self.chance.randint(0, 4) for _ in range(n)], status=status),
            mtime=self.landed)

    def actor(self):
        more = {'REPROCESS': 'true'} if self.chance.random() < 0.15 else {}
        return Actor(self.lake, OUTPUT_FILE_COUNT=self.chance.choice([1, 2, 2, 2, 3]), **more)

    def readers(self):
        "Who asks sees each row once; who lists never fewer keys than before"
        _, files = snapshot(self.ledger)
        asked = [row[0] for row in rows_in(files)]
        assert len(asked) == len(set(asked)), self.story
        listed = {row[0] for row in rows_in(self.ledger.visible())}
        assert set(self.before) <= set(asked) and set(self.before) <= listed, self.story
        self.before = asked

    def play(self):
        "The schedule of this seed"
        actors = []
        for _ in range(self.chance.randint(12, 45)):
            word = self.chance.choices(['step', 'start', 'land', 'repair', 'kill'], [30, 4, 2, 1.5, 1.5])[0]
            alive = [a for a in actors if a.outcome is None]
            if word == 'start' and len(alive) < 3:
                actors.append(self.actor())
                actors[-1].start()
            elif word == 'land': self.land()
            elif word == 'repair' and self.ledger.numbers(): repair(self.ledger, '%08x' % self.chance.getrandbits(32))
            elif alive:
                a = self.chance.choice(alive)
                a.doomed = word == 'kill'
                a.step()
                word += f' {actors.index(a)} {a.phase}'
            self.story.append(word)
            self.readers()
        for a in actors:
            while a.outcome is None: a.step()
            assert isinstance(a.outcome, str) or isinstance(a.outcome, REFUSALS), (self.story, a.outcome)

    def end(self):
        "The day must be as if nothing had happened"
        self.land()
        assert self.lake.run(session=inline, **LENIENT).status == 'done', self.story
        repair(self.ledger, 'abad1dea')
        commit, files = snapshot(self.ledger)
        assert sorted(rows_in(files)) == sorted(rows_in(self.ledger.visible())) == oracle(self.lake), self.story
        assert litter(self.ledger) == [], self.story
        assert self.ledger.taken(commit), self.story


@pytest.mark.parametrize('group', [pytest.param(i, marks=pytest.mark.slow if i > 1 else ()) for i in range(GROUPS)])
def test_random_schedules(tmp_path, group):
    for seed in range(group, DAYS, GROUPS):
        world = World(tmp_path / str(seed), seed)
        try:
            world.play()
            world.end()
        except BaseException as e:
            e.add_note(f'seed {seed}')
            raise


def test_a_schedule_that_bricked_a_day(tmp_path):
    """A run commits and stops; another commits on top of it; the first goes on to tidy up: what it made is the
    other's now"""
    lake = Lake(tmp_path)
    lake.land('a.parquet', chargebacks([f'k{i:05d}' for i in range(3000)]))
    first = Actor(lake, OUTPUT_FILE_COUNT=3)
    first.start()
    while first.phase != 'settle': first.step()
    lake.land('b.parquet', chargebacks(['late']))
    assert lake.run(session=inline, OUTPUT_FILE_COUNT=3).commit == 2
    first.step()
    assert first.outcome == 'done'
    head = first.run_.ledger.head()
    ledger = first.run_.ledger
    assert all(Path(ledger.path(path)).exists() for path in [*(f.lineage for f in head.files), head.manifest])
    lake.land('c.parquet', chargebacks(['k00000'], updated=5))
    assert lake.run(session=inline, OUTPUT_FILE_COUNT=3).commit == 3
    assert DAY in str(lake.words())


def test_a_fence_does_not_cost_a_slow_run_its_manifest(tmp_path):
    "`repair` takes the next number while a run that has committed still rolls forward"
    lake = Lake(tmp_path)
    lake.land('a.parquet', chargebacks(['k1', 'k2']))
    run = Actor(lake)
    run.start()
    while run.phase != 'settle': run.step()
    ledger = run.run_.ledger
    sink = ledger.store.stage(ledger.partition + '/part-00000-c000002-0badf00d.parquet')
    sink.write(b'x')
    sink.close()
    assert repair(ledger, 'abad1dea') == ['removed 1 staged files']
    run.step()
    assert run.outcome == 'done' and ledger.taken(ledger.head())
    lake.land('c.parquet', chargebacks(['k1'], updated=5))
    assert lake.run(session=inline).status == 'done'
    assert lake.run(session=inline, REPROCESS='true').status == 'done'


def test_repair_finds_a_manifest_written_after_the_fence(tmp_path):
    "A slow run prepares its commit under a number that a repair has taken meanwhile, and dies"
    lake = Lake(tmp_path)
    lake.land('a.parquet', chargebacks(['k1']))
    lake.run(session=inline)
    lake.land('b.parquet', chargebacks(['k2']))
    slow = Actor(lake)
    slow.start()
    while slow.phase != 'audit': slow.step()
    ledger = slow.run_.ledger
    repair(ledger, 'abad1dea')
    assert lake.run(session=inline).commit == 3
    while slow.phase != 'prepare': slow.step()
    slow.doomed = True
    slow.step()
    assert slow.outcome == 'killed' and litter(ledger) != []
    assert any('which no commit names' in words for words in repair(ledger, 'abad1deb'))
    assert litter(ledger) == []
