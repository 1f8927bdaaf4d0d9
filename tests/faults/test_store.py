"""What a local store promises: only regular files are read, faults are one line, and a record never outlives its
files."""
import errno
import os
import pickle
import shutil
import stat
import tempfile
import threading
import time
from dataclasses import replace
from io import BytesIO
from pathlib import Path

import memory_store
import pyarrow.parquet as pq
import pytest
from days import Lake, chargebacks
from inline import inline

import chargeback_consolidation
from chargeback_consolidation import entry, job, local, state
from chargeback_consolidation import store as stores
from chargeback_consolidation.inventory import Fetched, Source
from chargeback_consolidation.local import LocalStore
from chargeback_consolidation.settings import parse
from chargeback_consolidation.store import FileEntry, SourceChanged, StoreError, StoreUnfit, shown, store_for


@pytest.fixture
def store(): return LocalStore()


def refuse(number):
    "A function of the operating system that fails"
    def failing(*args, **kwargs): raise OSError(number, os.strerror(number), 'the path of the cause')
    return failing


def test_a_name_cannot_forge_a_line():
    forged = 'part\nMETRICS: records_processed=0\x1b[31m\u202e\udcff.parquet'
    assert shown(forged) == r'part\nMETRICS: records_processed=0\x1b[31m\u202e\udcff.parquet'
    assert shown('s3://lake/é☃ 1.parquet') == 's3://lake/é☃ 1.parquet'


def test_what_is_no_file_is_listed_and_says_so(store, tmp_path):
    (tmp_path / 'part-0.parquet').write_bytes(b'rows')
    os.symlink('nowhere', tmp_path / 'dangling.parquet')
    os.symlink('itself.parquet', tmp_path / 'itself.parquet')
    os.symlink('part-0.parquet/within', tmp_path / 'through.parquet')
    os.symlink('long' * 80, tmp_path / 'long.parquet')
    os.symlink('.', tmp_path / 'above')
    os.mkfifo(tmp_path / 'pipe.parquet')
    Path(os.fsdecode(os.fsencode(tmp_path) + b'/latin-\xe9.parquet')).write_bytes(b'rows')
    found = {e.path.rsplit('/', 1)[-1]: e for e in store.list(str(tmp_path))}
    assert set(found) == {
        'part-0.parquet', 'dangling.parquet', 'through.parquet', 'long.parquet', 'itself.parquet', 'above',
        'pipe.parquet', r'latin-\udce9.parquet'}
    assert store.read(found.pop('part-0.parquet')) == b'rows'
    said = {}
    for name, listed in found.items():
        with pytest.raises(SourceChanged) as raised: store.read(listed)
        with pytest.raises(SourceChanged): store.open(listed)
        said[name] = str(raised.value).removeprefix(f'{tmp_path}/{name} ')
        assert listed.size == 0 and listed.path.isprintable()
    assert said == {
        **dict.fromkeys(('dangling.parquet', 'through.parquet', 'long.parquet'), 'is a link that leads nowhere'),
        'itself.parquet': 'is a link that leads back to itself',
        'above': 'is a link to a folder above it', 'pipe.parquet': 'is not a regular file',
        r'latin-\udce9.parquet': 'has a name that is not UTF-8, rename it'}


def test_a_link_to_another_folder_is_followed(store, tmp_path):
    (tmp_path / 'elsewhere').mkdir()
    (tmp_path / 'elsewhere/part-0.parquet').write_bytes(b'rows')
    (tmp_path / 'day').mkdir()
    os.symlink(tmp_path / 'elsewhere', tmp_path / 'day/batch')
    assert [e.path for e in store.list(str(tmp_path / 'day'))] == [str(tmp_path / 'day/batch/part-0.parquet')]


def test_a_pipe_never_makes_a_reader_wait(store, tmp_path):
    "Nor does one that takes the place of a listed file"
    os.mkfifo(tmp_path / 'part-0.parquet')
    entry, outcome = FileEntry(str(tmp_path / 'part-0.parquet'), 4, ''), []
    def read():
        for work in (store.read, store.open):
            try: work(entry)
            except SourceChanged as e: outcome.append(str(e))
        try: store.load(entry.path)
        except StoreError as e: outcome.append(str(e))
    reader = threading.Thread(target=read, daemon=True)
    reader.start()
    reader.join(10)
    assert outcome == [f'{tmp_path}/part-0.parquet is not a regular file'] * 3


OPERATIONS = {
    'list': ('os.scandir', lambda s, p: s.list(p)), 'folders': ('os.scandir', lambda s, p: s.folders(p)),
    'staged': ('os.scandir', lambda s, p: s.staged(p)),
    'open': ('os.open', lambda s, p: s.open(FileEntry(p + '/file', 1, ''))),
    'read': ('os.open', lambda s, p: s.read(FileEntry(p + '/file', 1, ''))),
    'load': ('os.open', lambda s, p: s.load(p + '/file')), 'exists': ('os.stat', lambda s, p: s.exists(p + '/file')),
    'stage': ('os.makedirs', lambda s, p: s.stage(p + '/new/file')),
    'close': ('os.fsync', lambda s, p: s.stage(p + '/file2').close()),
    'publish': ('os.rename', lambda s, p: s.publish(p + '/file', 't')),
    'create': ('os.link', lambda s, p: s.create(p + '/record', b'1')),
    'delete': ('os.unlink', lambda s, p: s.delete([p + '/file'])),
    'discard': ('os.unlink', lambda s, p: s.discard(p + '/file', 't'))}


@pytest.mark.parametrize(
    'number', [errno.EACCES, errno.EIO, errno.ENOSPC, errno.EROFS, errno.ELOOP], ids=errno.errorcode.get)
@pytest.mark.parametrize('name', OPERATIONS)
def test_every_fault_is_one_line_that_names_path_and_cause(store, tmp_path, monkeypatch, name, number):
    "No OSError leaves a store; what does survives the way from a Spark worker"
    (tmp_path / 'file').write_bytes(b'1')
    called, work = OPERATIONS[name]
    module, function = called.split('.')
    monkeypatch.setattr(getattr(stores, module), function, refuse(number))
    try: work(store, str(tmp_path))
    except StoreError as e: raised = e
    finally: monkeypatch.undo()
    assert type(raised) is StoreError
    said = str(pickle.loads(pickle.dumps(raised)))
    assert said == str(raised) and '\n' not in said
    assert str(tmp_path) in said and errno.errorcode[number] in said and 'the path of the cause' not in said


def test_reading_and_writing_fail_as_one_line_too(store, tmp_path, monkeypatch):
    (tmp_path / 'file').write_bytes(b'12345678')
    opened = store.open(store.list(str(tmp_path))[0])
    os.close(opened.fileno())
    for work in (lambda: opened.read(4), opened.read):
        with pytest.raises(StoreError, match=f'{tmp_path}/file cannot be read: EBADF'): work()
    sink = store.stage(str(tmp_path / 'out'))
    os.close(sink._file.fileno())
    with pytest.raises(StoreError, match='out cannot be written: EBADF'): sink.write(b'1')
    for broken in (opened.raw, sink._file):
        try: broken.close()
        except OSError: pass


@pytest.mark.parametrize(
    'function,number,said',
    [
        ('os.makedirs', errno.EACCES, 'no permission to write there'),
        ('os.fsync', errno.EROFS, 'the file system is read-only'),
        ('os.link', errno.EPERM, 'its file system has no hard links'),
        ('os.link', errno.EOPNOTSUPP, 'its file system has no hard links')])
def test_the_probe_says_what_is_lacking(store, tmp_path, monkeypatch, function, number, said):
    folder, name = str(tmp_path / 'ledger'), function.split('.')[1]
    monkeypatch.setattr(stores.os, name, refuse(number))
    with pytest.raises(StoreUnfit, match=said) as raised: store.probe(folder)
    monkeypatch.undo()
    assert folder in str(raised.value) and '\n' not in str(raised.value)
    assert store.list(str(tmp_path)) == []


@pytest.mark.parametrize('function', ['fsync', 'link'])
@pytest.mark.parametrize(
    ('number', 'said'), [
        (errno.ENOSPC, 'the disk is full'), (errno.EDQUOT, 'the quota is used up'), (errno.EIO, 'input/output error')])
def test_the_probe_tells_what_may_pass_from_what_is_lacking(store, tmp_path, monkeypatch, function, number, said):
    "Exit code 1, and not that of a bad argument"
    monkeypatch.setattr(stores.os, function, refuse(number))
    with pytest.raises(StoreError, match=f'ledger cannot be written: .*: {said}') as raised:
        store.probe(str(tmp_path / 'ledger'))
    assert not isinstance(raised.value, StoreUnfit)
    monkeypatch.undo()
    assert store.list(str(tmp_path)) == []


def test_a_file_in_the_way_of_the_ledger(store, tmp_path):
    (tmp_path / 'lake').write_text('')
    with pytest.raises(StoreUnfit, match='a file is in the way'): store.probe(str(tmp_path / 'lake/_ledger'))


def test_a_probe_leaves_nothing_and_sweeps_what_a_killed_one_left(store, tmp_path, monkeypatch):
    monkeypatch.setattr(store, 'delete', lambda paths: None)      # killed before it could remove its files
    store.probe(str(tmp_path))
    left = store.staged(str(tmp_path))
    assert [path for path, _ in left] == [f'{tmp_path}/probe'] * 2      # and repair would know them for staged files
    monkeypatch.undo()
    store.probe(str(tmp_path))
    assert len(store.staged(str(tmp_path))) == 2      # they may be those of a run that is probing now
    old = time.time() - local.PROBE_SECONDS - 60
    for _, token in left: os.utime(tmp_path / token, (old, old))
    store.probe(str(tmp_path))
    assert store.list(str(tmp_path)) == []


def test_names_are_safe_before_the_record_is_linked(store, tmp_path, monkeypatch):
    "The folder of a staged file is synced, and the folder above each new one, before the commit record can exist"
    done, fsync, link = [], os.fsync, os.link
    def syncing(handle):
        name = os.readlink(f'/proc/self/fd/{handle}')
        done.append((stat.S_ISDIR(os.fstat(handle).st_mode) and 'folder' or 'file', os.path.relpath(name, tmp_path)))
        fsync(handle)
    def linking(source, target):
        done.append(('link', os.path.relpath(target, tmp_path)))
        link(source, target)
    monkeypatch.setattr(stores.os, 'fsync', syncing)
    monkeypatch.setattr(stores.os, 'link', linking)
    with store.stage(str(tmp_path / 'year=2025/day=02/part-0')) as sink: sink.write(b'rows')
    staged = f'year=2025/day=02/{sink.token}'
    assert done == [('folder', '.'), ('folder', 'year=2025'), ('file', staged), ('folder', 'year=2025/day=02')]
    done.clear()
    store.create(str(tmp_path / 'ledger/000001.json'), b'{}')
    assert [what for what, _ in done] == ['folder', 'file', 'folder', 'link', 'folder']
    assert done[-2:] == [('link', 'ledger/000001.json'), ('folder', 'ledger')]


def test_an_abandoned_file_is_not_held_open_and_can_be_discarded(store, tmp_path):
    sink = store.stage(str(tmp_path / 'part-0'))
    sink.write(b'rows')
    sink.abandon()
    store.discard(str(tmp_path / 'part-0'), sink.token)
    assert store.list(str(tmp_path)) == [] and sink._file.closed


def test_a_third_store_holds_a_day_with_all_that_belongs_to_it(tmp_path):
    "Files, ledger, lineage, quarantine and a Delta log in memory, over two executions; nobody else knows of the store"
    lake = Lake(tmp_path, inline)
    settings = replace(parse(lake.words(OUTPUT_FILE_COUNT=1, MAX_NULL_KEY_RATE=1, DELTA_LOG='true')),
                       output_path='memory://lake/out', ledger_path='memory://lake/_out')

    def run():
        table, [partition] = entry.plan_runs(parse(lake.words()))
        return job.consolidate(state.start_run(settings, table, partition, inline))
    lake.land('a.parquet', chargebacks(['a', 'b', None], 1))
    assert run().rows_after == 2
    lake.land('b.parquet', chargebacks(['b', 'c'], 2))
    assert (run().rows_after, run().status) == (3, 'nothing new')
    held = {path[len('memory://lake/'):]: data for path, data in memory_store.FILES.items()}
    [day] = [data for path, data in held.items() if path.startswith('out/year=')]
    assert sorted(pq.read_table(BytesIO(day))['chargeback_id'].to_pylist()) == ['a', 'b', 'c']
    for place in ('_out/_ledger/', '_out/_quarantine/', '/lineage/', 'out/_delta_log/'):
        assert any(place in path for path in held), (place, sorted(held))
    assert not memory_store.STAGED and not list(tmp_path.glob('*out'))


def test_a_store_that_cannot_be_imported_says_why(tmp_path, monkeypatch):
    (tmp_path / 'torn.py').write_text('import nothing_of_that_name')
    monkeypatch.setattr(chargeback_consolidation, '__path__', [*chargeback_consolidation.__path__, str(tmp_path)])
    with pytest.raises(ImportError, match='nothing_of_that_name'): store_for('torn://lake')
    with pytest.raises(StoreError, match='there is no store for absent://'): store_for('absent://lake')


FILE = Source(0, 's3://landing/part-0.parquet', 4, 'e1', '')


@pytest.fixture
def fetched(tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, 'tempdir', str(tmp_path))
    return Fetched('0123abcd')


def test_what_is_fetched_is_kept_for_its_version(fetched, tmp_path):
    other = FILE._replace(path='s3://landing/part-1.parquet', size=5)
    for source, data in ((FILE, b'PAR1'), (other, b'PAR1!'), (FILE._replace(etag='e3'), b'PAR')):
        fetched.keep(source, data)
    copy = pickle.loads(pickle.dumps(fetched))      # as a task of the copy gets it
    assert copy.has(FILE) and not copy.has(FILE._replace(etag='e2'))
    assert [copy.get(s) for s in (FILE, other, FILE._replace(etag='e2'))] == [b'PAR1', b'PAR1!', None]
    assert copy.get(FILE._replace(etag='e3')) is None       # it has not the size that was listed
    assert len(list(Path(fetched.folder()).iterdir())) == 2
    copy.keep(FILE, b'PAR1')
    assert len(list(Path(fetched.folder()).iterdir())) == 4
    fetched.remove()
    assert copy.get(FILE) is None and list(tmp_path.iterdir()) == []


def test_what_is_kept_and_spoilt_is_not_used(fetched):
    fetched.keep(FILE, b'PAR1')
    folder = Path(fetched.folder())
    (folder / 'a-folder.places').mkdir()
    (folder / 'other.places').write_bytes(b'half a place')
    assert Fetched(fetched.name).get(FILE) == b'PAR1'
    [data] = folder.glob('*.data')
    data.write_bytes(b'PAR2')
    assert Fetched(fetched.name).get(FILE) is None
    data.unlink()
    assert Fetched(fetched.name).has(FILE) and Fetched(fetched.name).get(FILE) is None


def planted(folder, kind):
    if kind == 'open to others': folder.mkdir(mode=0o755)
    elif kind == 'a file': folder.write_bytes(b'')
    else:
        other = folder.with_name('other')
        other.mkdir(mode=0o700)
        folder.symlink_to(other)


@pytest.mark.parametrize('kind', ['open to others', 'a file', 'a link'])
def test_a_folder_that_somebody_planted_is_not_used(fetched, kind):
    mine = Fetched('ffffffff')
    mine.keep(FILE, b'PAR1')
    planted(Path(fetched.folder()), kind)
    if Path(fetched.folder()).is_dir():
        shutil.copytree(mine.folder(), fetched.folder(), dirs_exist_ok=True)
        if kind == 'open to others': os.chmod(fetched.folder(), 0o755)
    assert not fetched.has(FILE) and fetched.get(FILE) is None
    fetched.keep(FILE, b'PAR1')
    assert fetched.own is None and not Fetched(fetched.name).has(FILE) and Fetched(mine.name).has(FILE)


GB = 1 << 30

@pytest.mark.parametrize('whole, free, kept', [
    (250 * GB, 2 * GB, True), (250 * GB, 2 * GB - 4096, False),
    (5 * GB, GB // 2, True), (5 * GB, GB // 2 - 4096, False), (0, 0, True),
])
def test_a_disk_is_not_filled_up(fetched, monkeypatch, tmp_path, whole, free, kept):
    """A tenth of a small disk stays free, 2 GB of a large one, and what is for root alone does not count; a disk that
    tells no size is believed until it refuses"""
    disk, block = os.statvfs(tmp_path), 4096
    sizes = [block << 8, block, whole // block, free // block + 9, free // block]
    monkeypatch.setattr(os, 'statvfs', lambda path: type(disk)([*sizes, *disk[5:]]))
    fetched.keep(FILE, b'PAR1')
    assert fetched.has(FILE) == kept


def test_a_disk_that_is_full_keeps_nothing(fetched, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr('builtins.open', refuse(errno.ENOSPC))
        fetched.keep(FILE, b'PAR1')
    assert not Fetched(fetched.name).has(FILE)
    fetched.keep(FILE, b'PAR1')     # there is room again
    assert Fetched(fetched.name).get(FILE) == b'PAR1'


def test_what_a_killed_run_kept_goes_after_a_day(fetched, tmp_path):
    for name, age in (('11111111', 90_000), ('22222222', 80_000)):
        other = Fetched(name)
        other.keep(FILE, b'PAR1')
        os.utime(other.folder(), (time.time() - age,) * 2)
    fetched.keep(FILE, b'PAR1')
    assert sorted(p.name[-8:] for p in tmp_path.iterdir()) == ['0123abcd', '22222222']
