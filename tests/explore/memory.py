"""A disk and a bucket in memory, of which each request is a step that a scheduler decides about.

The stores above them are the job's own: `LocalStore` with this module's `MemoryOs` in the place of `os`, `S3Store`
with `Bucket` in the place of a boto3 client. A request may be answered, refused, done without an answer, done twice
(as a client does that repeats what was not answered), or done later than its failure was told.
"""
import errno
import io
import os
import posixpath
import stat
from collections import namedtuple
from concurrent.futures import Future
from contextlib import contextmanager
from types import SimpleNamespace

from botocore.exceptions import ClientError, ReadTimeoutError

from chargeback_consolidation import copying, delta, job, ledger, local, plan, repair, s3, state, store
from chargeback_consolidation.commands import going_back
from chargeback_consolidation.store import SourceChanged

FAULTS = {True: ('refused', 'lost', 'twice', 'late'), False: ('refused',)}     # of a request that changes something


class Memory:
    "Files, and uploads that are not completed; `mark` is a hash of all"

    def __init__(self):
        self.files, self.uploads, self.mark = {}, {}, 0

    def copy(self):
        other = Memory()
        other.files, other.uploads, other.mark = dict(self.files), dict(self.uploads), self.mark
        return other

    def _flip(self, table, key, value): self.mark ^= hash((table, key, value))

    def put(self, path, data):
        self.drop(path)
        self.files[path] = data
        self._flip('file', path, data)

    def drop(self, path):
        if path in self.files: self._flip('file', path, self.files.pop(path))

    def upload(self, token, path, data):
        self.end(token)
        self.uploads[token] = path, data
        self._flip('upload', token, (path, data))

    def end(self, token):
        if token in self.uploads: self._flip('upload', token, self.uploads.pop(token))

    def below(self, folder):
        prefix = folder.rstrip('/') + '/'
        return [path for path in self.files if path.startswith(prefix)]


class Request(namedtuple('Request', 'words paths changes')):
    "What an actor asks of the store. A path that ends with a slash stands for all that lies below"

    def __str__(self): return f'{self.words} {self.paths[0].rstrip("/").rsplit("/", 1)[-1]}'

    def meets(self, other):
        "False if it does not matter which of the two comes first"
        return (self.changes or other.changes) and any(touch(a, b) for a in self.paths for b in other.paths)


def touch(a, b): return a == b or a[-1] == '/' and b.startswith(a) or b[-1] == '/' and a.startswith(b)


class Stage:
    "Where the memory lies that the stores act on, and who decides about their requests"

    def __init__(self):
        self.memory, self.pause, self.name = Memory(), None, lambda: '0' * 32
        self.later = None       # function (effect, request), for requests that are done late
        self.heard = None       # function (what an actor was answered)
        self.gone = 404         # the answer about an upload that is gone

    def step(self, words, path, effect, changes=False, also=()):
        "One request: what `effect` gives, unless the scheduler has other plans"
        if self.pause is None: return effect()
        fate = self.pause(Request(words, (path, *also), changes))
        try: answer = self.answer(fate, effect, Request(words, (path, *also), changes))
        except Exception as e:
            self.heard(type(e).__name__)
            raise
        self.heard(heard(answer))
        return answer

    def answer(self, fate, effect, request):
        if fate is None: return effect()
        if fate == 'lost': effect()
        if fate == 'late': self.later(effect, request)
        if fate != 'twice': raise self.fault()
        try: effect()
        except (OSError, ClientError): pass
        return effect()


def heard(answer):
    "An answer as something that can be compared"
    if isinstance(answer, list): return tuple(map(heard, answer))
    if isinstance(answer, tuple): return heard(answer[0])
    if isinstance(answer, Read): return answer.getvalue()
    if isinstance(answer, (Item, Written)): return answer.path
    if isinstance(answer, dict): return repr(answer)
    return answer if isinstance(answer, (bytes, bool)) else None


STAGE = Stage()


class Stat(SimpleNamespace):
    "What `os.stat` tells"


def found(path):
    files = STAGE.memory.files
    if path in files:
        return Stat(st_mode=stat.S_IFREG, st_size=len(files[path]), st_mtime_ns=1, st_mtime=0, st_dev=1, st_ino=1)
    return Stat(st_mode=stat.S_IFDIR, st_size=0, st_mtime_ns=0, st_mtime=0, st_dev=1, st_ino=hash(path))


def is_folder(path):
    name = posixpath.basename(path)
    return '.' not in name and name != 'source-table'


def missing(path): return FileNotFoundError(errno.ENOENT, 'no such file', path)


class Item:
    "An item of `os.scandir`"

    def __init__(self, path): self.path, self.name = path, posixpath.basename(path)
    def stat(self): return found(self.path)
    def is_symlink(self): return False


class Written(io.RawIOBase):
    "A file that is open for writing; nobody else looks into it before it has its name"

    def __init__(self, path):
        super().__init__()
        self.path = path

    def fileno(self): return 3
    def flush(self): pass

    def write(self, data):
        STAGE.memory.put(self.path, STAGE.memory.files.get(self.path, b'') + bytes(data))
        return len(data)


class MemoryOs:
    "The part of `os` that `LocalStore` uses"
    O_RDONLY = O_NONBLOCK = 0
    path = SimpleNamespace(
        dirname=posixpath.dirname, basename=posixpath.basename, join=posixpath.join, isdir=lambda path: True,
        exists=lambda path: STAGE.step('look for', path, lambda: path in STAGE.memory.files))

    def open(self, *args): return 3
    def close(self, handle): pass
    def fsync(self, handle): pass
    def makedirs(self, folder, exist_ok=False): pass
    def fstat(self, handle): return found(handle)

    def stat(self, path):
        if is_folder(path): return found(path)

        def effect():
            if path not in STAGE.memory.files: raise missing(path)
            return found(path)
        return STAGE.step('look for', path, effect)

    def scandir(self, folder):
        def effect():
            at = len(folder) + 1
            names = {path[at:].split('/')[0] for path in STAGE.memory.below(folder)}
            return [Item(f'{folder}/{name}') for name in sorted(names)]
        return STAGE.step('list', folder + '/', effect)

    def rename(self, source, target):
        def effect():
            if source not in STAGE.memory.files: raise missing(source)
            data = STAGE.memory.files[source]
            STAGE.memory.drop(source)
            STAGE.memory.put(target, data)
        STAGE.step('rename to', target, effect, True, (source,))

    def link(self, source, target):
        def effect():
            if source not in STAGE.memory.files: raise missing(source)
            if target in STAGE.memory.files: raise FileExistsError(errno.EEXIST, 'it exists', target)
            STAGE.memory.put(target, STAGE.memory.files[source])
        STAGE.step('link', target, effect, True, (source,))

    def unlink(self, path):
        def effect():
            if path not in STAGE.memory.files: raise missing(path)
            STAGE.memory.drop(path)
        STAGE.step('unlink', path, effect, True)


def open_hidden(path, mode, buffering=-1):
    "`open`, for a new file"
    def effect():
        if path in STAGE.memory.files: raise FileExistsError(errno.EEXIST, 'it exists', path)
        STAGE.memory.put(path, b'')
        return Written(path)
    return STAGE.step('stage', path, effect, True)


class Read(io.BytesIO):
    def __init__(self, path):
        super().__init__(STAGE.memory.files[path])
        self.path = path

    def fileno(self): return self.path


def open_to_read(path):
    "`open_local`"
    def effect():
        if path not in STAGE.memory.files: raise SourceChanged(f'{path} is gone since it was listed')
        return Read(path), found(path)
    return STAGE.step('read', path, effect)


def refused(code, operation): return ClientError({'Error': {'Code': str(code)}}, operation)


class Pages:
    "A paginator"

    def __init__(self, pages): self.paginate = pages


class Bucket:
    "The part of boto3's S3 client that `S3Store` uses; keys are kept as paths"
    meta = SimpleNamespace(service_model=SimpleNamespace(operation_model=lambda name: SimpleNamespace(
        input_shape=SimpleNamespace(members={'IfNoneMatch'}))))

    def get_paginator(self, name): return Pages(getattr(self, name))

    def list_objects_v2(self, Bucket, Prefix, Delimiter=None, MaxKeys=None):
        at, folder = len(f's3://{Bucket}/'), f's3://{Bucket}/{Prefix}'

        def effect():
            names = sorted(p for p in STAGE.memory.files if p.startswith(folder))
            inner = [p for p in names if Delimiter and Delimiter in p[len(folder):]]
            folders = sorted({p[at:len(folder)] + p[len(folder):].split('/')[0] + '/' for p in inner})
            answer = {
                'Contents': [{'Key': p[at:], 'Size': len(STAGE.memory.files[p]), 'ETag': '"e"'}
                             for p in names if p not in inner],
                'CommonPrefixes': [{'Prefix': p} for p in folders]}
            return answer if MaxKeys else [answer]
        return STAGE.step('look for' if MaxKeys else 'list', folder, effect)

    def list_multipart_uploads(self, Bucket, Prefix):
        at, folder = len(f's3://{Bucket}/'), f's3://{Bucket}/{Prefix}'

        def effect():
            uploads = [(p[at:], token) for token, (p, _) in STAGE.memory.uploads.items() if p.startswith(folder)]
            return [{'Uploads': [{'Key': key, 'UploadId': token} for key, token in sorted(uploads)]}]
        return STAGE.step('list uploads below', folder, effect)

    def get_object(self, Bucket, Key, IfMatch=None, Range=None):
        path = f's3://{Bucket}/{Key}'

        def effect():
            if path not in STAGE.memory.files: raise refused('NoSuchKey', 'GetObject')
            return STAGE.memory.files[path]
        return {'Body': io.BytesIO(STAGE.step('read', path, effect))}

    def put_object(self, Bucket, Key, Body, IfNoneMatch=None):
        path = f's3://{Bucket}/{Key}'

        def effect():
            if IfNoneMatch and path in STAGE.memory.files: raise refused(412, 'PutObject')
            STAGE.memory.put(path, Body)
        return STAGE.step('put', path, effect, True)

    def delete_objects(self, Bucket, Delete):
        paths = [f's3://{Bucket}/{o["Key"]}' for o in Delete['Objects']]

        def effect():
            for path in paths: STAGE.memory.drop(path)
            return {}
        return STAGE.step('delete', paths[0], effect, True, tuple(paths[1:]))

    def create_multipart_upload(self, Bucket, Key):
        path = f's3://{Bucket}/{Key}'

        def effect():
            token = STAGE.name()
            STAGE.memory.upload(token, path, b'')
            return {'UploadId': token}
        return STAGE.step('stage', path, effect, True)

    def upload_part(self, Bucket, Key, UploadId, PartNumber, Body):
        if UploadId not in STAGE.memory.uploads: raise refused('NoSuchUpload', 'UploadPart')
        path, data = STAGE.memory.uploads[UploadId]
        STAGE.memory.upload(UploadId, path, data + Body)
        return {'ETag': f'"{UploadId[:8]}"'}

    def list_parts(self, Bucket, Key, UploadId, MaxParts):
        def effect():
            if UploadId not in STAGE.memory.uploads: raise refused('NoSuchUpload', 'ListParts')
        return STAGE.step('look for upload of', f's3://{Bucket}/{Key}', effect)

    def complete_multipart_upload(self, Bucket, Key, UploadId, MultipartUpload):
        path = f's3://{Bucket}/{Key}'

        def effect():
            if UploadId not in STAGE.memory.uploads:
                code = {404: 'NoSuchUpload', 500: 'InternalError'}[STAGE.gone]
                raise refused(code, 'CompleteMultipartUpload')
            data = STAGE.memory.uploads[UploadId][1]
            STAGE.memory.end(UploadId)
            STAGE.memory.put(path, data)
        return STAGE.step('complete', path, effect, True)

    def abort_multipart_upload(self, Bucket, Key, UploadId):
        def effect():
            if UploadId not in STAGE.memory.uploads: raise refused('NoSuchUpload', 'AbortMultipartUpload')
            STAGE.memory.end(UploadId)
        return STAGE.step('abort', f's3://{Bucket}/{Key}', effect, True)


class Now:
    "A pool without threads; what it does to each of several it does in the reverse of their order"

    def __init__(self, size): pass

    def __enter__(self): return self

    def __exit__(self, *about): pass

    def imap(self, work, items): return [work(item) for item in items[::-1]][::-1]

    def submit(self, work, *args):
        value = work(*args)
        return SimpleNamespace(result=lambda: value, cancel=lambda: None)

    def shutdown(self, wait=True): pass


def at_once(work, *args):
    "`in_background` without a thread"
    done = Future()
    try: done.set_result(work(*args))
    except Exception as e: done.set_exception(e)
    return done


def fault_of(kind):
    if kind == 'local': return lambda: OSError(errno.EIO, os.strerror(errno.EIO))
    return lambda: ReadTimeoutError(endpoint_url='s3')


class QuickStore(s3.S3Store):
    "An `S3Store` whose whole objects too are read through the client"

    def ask(self, entry): return None


@contextmanager
def replaced(pairs):
    "Modules' names stand for other things meanwhile: ((module, name, value), ...)"
    absent = object()
    before = [(module, name, getattr(module, name, absent)) for module, name, _ in pairs]
    try:
        for module, name, value in pairs: setattr(module, name, value)
        yield
    finally:
        for module, name, value in reversed(before):
            if value is absent: delattr(module, name)
            else: setattr(module, name, value)


def names(): return SimpleNamespace(uuid4=lambda: SimpleNamespace(hex=STAGE.name()))


CLOCK = SimpleNamespace(time=lambda: 0.0, monotonic=lambda: 0.0)

IN_MEMORY = (
    (local, 'os', MemoryOs()), (local, 'open', open_hidden), (local, 'open_local', open_to_read),
    (local, 'uuid', names()), (state, 'uuid', names()), (s3, 'aws_client', lambda *args, **options: Bucket()),
    (s3, 'ThreadPoolExecutor', Now), (store, 'ThreadPool', Now), (state, 'in_background', at_once),
    (s3.S3Store, 'ask', QuickStore.ask),
    (store, 'STORES', {'local': local.LocalStore, 's3': s3.S3Store}),     # whatever a notebook has put there
    (local, 'time', CLOCK), (state, 'time', CLOCK), (job, 'time', CLOCK))

MODULES = copying, delta, going_back, job, ledger, local, plan, repair, s3, state
