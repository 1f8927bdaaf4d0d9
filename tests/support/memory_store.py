"""A third kind of store, as somebody might write it: files in a dictionary of this process, as `memory://name/path`."""
import io
import uuid

from chargeback_consolidation.store import STORES, FileEntry, Sink, SourceChanged

FILES, STAGED = {}, {}  # path: bytes; token: [path, bytes or None]


class MemorySink(Sink):
    def __init__(self, path):
        super().__init__()
        self.token, self.parts = uuid.uuid4().hex, []
        STAGED[self.token] = [path, None]

    def put(self, data): self.parts.append(data)

    def close(self):
        if not self.closed and self.token in STAGED: STAGED[self.token][1] = b''.join(self.parts)
        self.abandon()

    def __del__(self): self.abandon()


class MemoryStore:
    threads = 1

    def below(self, folder): return [path for path in sorted(FILES) if path.startswith(folder + '/')]
    def load(self, path): return FILES.get(path)
    def exists(self, path): return path in FILES
    def probe(self, folder): pass
    def staging(self, root, aside): return self
    def stage(self, path): return MemorySink(path)
    def discard(self, path, token): STAGED.pop(token, None)

    def list(self, folder, recursive=True):
        return [FileEntry(path, len(FILES[path]), str(hash(FILES[path]))) for path in self.below(folder)
                if recursive or '/' not in path[len(folder) + 1:]]

    def folders(self, folder):
        inside = [path[len(folder) + 1:] for path in self.below(folder)]
        return sorted({path.split('/')[0] for path in inside if '/' in path})

    def read(self, entry):
        data = FILES.get(entry.path)
        if data is None or entry.etag not in ('', str(hash(data))): raise SourceChanged(f'{entry.path} has changed')
        return data

    def open(self, entry): return io.BytesIO(self.read(entry))

    def staged(self, folder):
        return sorted((path, token) for token, (path, _) in STAGED.items() if path.rpartition('/')[0] == folder)

    def publish(self, path, token):
        data = STAGED.pop(token, [path, None])[1]
        if data is not None: FILES[path] = data
        return path in FILES

    def create(self, path, data): return FILES.setdefault(path, bytes(data)) == data

    def delete(self, paths):
        for path in paths: FILES.pop(path, None)


STORES['memory'] = MemoryStore
