"""An S3 endpoint in which every request takes 30 ms, and how many landing files a second the job does over it.

    python bench/s3.py [--files 12500] [--rounds 3] [--latency 30] [--output s3|disk] [--write]

The landing bucket is served from a folder by a small asynchronous server, and so is the bucket of the output from
memory, since nothing else here answers a thousand requests a second, or takes a gigabyte without hashing it; what is
asked of Glue it hands to moto. The latency is added to each request, and many can wait at once, as in S3. The server
is on the same cores as the job.
"""
import argparse
import asyncio
import hashlib
import os
import re
import statistics
import sys
import tempfile
import time
from collections import Counter
from email.utils import formatdate
from pathlib import Path
from threading import Event, Thread
from urllib.parse import parse_qs, unquote, urlsplit
from xml.sax.saxutils import escape, unescape

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / 'tests/support'), str(ROOT / 'bench')]
BUCKET, OUT = 'landing', 'out'
LIST = '<?xml version="1.0" encoding="UTF-8"?><ListBucketResult><Name>landing</Name>{}</ListBucketResult>'
XML = ['Content-Type: application/xml']
REFUSED = {404: 'NoSuchKey', 412: 'PreconditionFailed'}


def refuse(status): return status, XML, f'<Error><Code>{REFUSED[status]}</Code></Error>'.encode()


def pieces(body, headers):
    "What the body of a request holds, a list of pieces: botocore may send it in chunks. Nothing is copied"
    if 'aws-chunked' not in headers.get('content-encoding', ''): return [body]
    found, at, whole = [], 0, memoryview(body)
    while True:
        end = body.index(b'\r\n', at)
        size = int(body[at:end].split(b';')[0], 16)
        if not size: return found
        found.append(whole[end + 2:end + 2 + size])
        at = end + 4 + size


class Memory:
    """A bucket in memory, as far as the job asks for it: objects, conditional and in parts, listings, deletions. An
    object is a list of pieces, put together when it is read. An ETag counts what was written"""

    def __init__(self): self.objects, self.uploads, self.written = {}, {}, 0

    def put(self, key, content):
        self.written += 1
        self.objects[key] = f'"{self.written:032x}"', content
        return 200, [f'ETag: {self.objects[key][0]}'], b''

    def listing(self, query):
        prefix, cut = query.get('prefix', [''])[0], 'delimiter' in query
        folder = {k: prefix + k[len(prefix):].split('/')[0] + '/' if cut and '/' in k[len(prefix):] else ''
                  for k in sorted(self.objects) if k.startswith(prefix)}
        told = [f'<CommonPrefixes><Prefix>{escape(f)}</Prefix></CommonPrefixes>'
                for f in sorted({*folder.values()} - {''})]
        told += [f'<Contents><Key>{escape(k)}</Key><Size>{sum(map(len, self.objects[k][1]))}</Size>'
                 f'<ETag>{escape(self.objects[k][0])}</ETag><LastModified>2025-11-02T00:00:00.000Z</LastModified>'
                 '</Contents>' for k, f in folder.items() if not f]
        return 200, XML, LIST.format(''.join(told) + '<IsTruncated>false</IsTruncated>').encode()

    def part(self, query, content):
        upload = self.uploads.get(query['uploadId'][0])
        if upload is None: return refuse(404)
        upload[1][int(query['partNumber'][0])] = content
        return 200, [f'ETag: "{query["partNumber"][0]:0>32}"'], b''

    def complete(self, query):
        if query['uploadId'][0] not in self.uploads: return refuse(404)
        key, parts = self.uploads.pop(query['uploadId'][0])
        self.put(key, [piece for n in sorted(parts) for piece in parts[n]])
        etag = escape(self.objects[key][0])
        return 200, XML, f'<CompleteMultipartUploadResult><ETag>{etag}</ETag></CompleteMultipartUploadResult>'.encode()

    def begin(self, key):
        upload = f'upload-{len(self.uploads)}-{self.written}-{key[-12:]}'
        self.uploads[upload] = key, {}
        answer = f'<InitiateMultipartUploadResult><UploadId>{upload}</UploadId></InitiateMultipartUploadResult>'
        return 200, XML, answer.encode()

    def waiting(self, query):
        prefix = query.get('prefix', [''])[0]
        told = [f'<Upload><Key>{escape(key)}</Key><UploadId>{name}</UploadId></Upload>'
                for name, (key, _) in self.uploads.items() if key.startswith(prefix)]
        told = ''.join(told) + '<IsTruncated>false</IsTruncated>'
        return 200, XML, f'<ListMultipartUploadsResult>{told}</ListMultipartUploadsResult>'.encode()

    def delete(self, body):
        for key in re.findall('<Key>(.*?)</Key>', body.decode()): self.objects.pop(unescape(key), None)
        return 200, XML, b'<DeleteResult></DeleteResult>'

    def read(self, key, headers):
        if key not in self.objects: return refuse(404)
        etag, content = self.objects[key]
        if headers.get('if-match', etag) != etag: return refuse(412)
        first, _, last = headers.get('range', 'bytes=0-')[6:].partition('-')
        part = b''.join(content)[int(first):int(last) + 1 if last else None]
        return 206 if 'range' in headers else 200, [f'ETag: {etag}', 'Content-Type: binary/octet-stream'], part

    def answer(self, method, key, query, headers, body):
        "(status, headers, body)"
        if method == 'PUT' and 'uploadId' in query: return self.part(query, pieces(body, headers))
        if method == 'PUT': return refuse(412) if key in self.objects else self.put(key, pieces(body, headers))
        if method == 'POST' and 'uploads' in query: return self.begin(key)
        if method == 'POST' and 'uploadId' in query: return self.complete(query)
        if method == 'POST': return self.delete(body)
        if method == 'DELETE': return 204, [], self.uploads.pop(query['uploadId'][0], ()) and b''
        if key: return self.read(key, headers)
        return self.waiting(query) if 'uploads' in query else self.listing(query)


class Endpoint:
    """Serves `folder` as the bucket `landing`, a `Memory` as `out`, everything else from the endpoint `behind`;
    `requests` counts by method and kind"""

    def __init__(self, folder, behind, latency):
        self.behind, self.latency, self.requests, self.out = urlsplit(behind), latency, Counter(), Memory()
        self.files = {p.relative_to(folder).as_posix(): p for p in sorted(Path(folder).rglob('*.parquet'))}
        self.etags = {key: '"' + hashlib.md5(p.read_bytes()).hexdigest() + '"' for key, p in self.files.items()}
        self.keys = sorted(self.files)

    def listing(self, query):
        prefix, start, keys = query.get('prefix', [''])[0], query.get('continuation-token', [''])[0], []
        keys = [key for key in self.keys if key.startswith(prefix) and key > start]
        if 'delimiter' in query:
            folders = sorted(
                {prefix + key[len(prefix) :].split('/')[0] + '/' for key in keys if '/' in key[len(prefix) :]})
            return LIST.format(
                ''.join(f'<CommonPrefixes><Prefix>{escape(f)}</Prefix></CommonPrefixes>' for f in folders)
                + '<IsTruncated>false</IsTruncated>')
        page = keys[:1000]
        more = (
            f'<IsTruncated>true</IsTruncated><NextContinuationToken>{escape(page[-1])}</NextContinuationToken>'
            if len(keys) > 1000
            else '<IsTruncated>false</IsTruncated>')
        return LIST.format(
            more
            + ''.join(
                f'<Contents><Key>{escape(k)}</Key><Size>{self.files[k].stat().st_size}</Size><ETag>{escape(self.etags[k])}</ETag>'
                '<LastModified>2025-11-02T00:00:00.000Z</LastModified></Contents>'
                for k in page))

    def own(self, method, target, headers):
        "(status, headers, body) of a request for the landing bucket"
        url = urlsplit(target)
        _, _, key = unquote(url.path).lstrip('/').partition('/')
        self.requests[f'{method} {"object" if key else "list"}'] += 1
        if not key: return 200, XML, self.listing(parse_qs(url.query)).encode()
        if key not in self.files: return refuse(404)
        if headers.get('if-match', self.etags[key]) != self.etags[key]: return refuse(412)
        return 200, [f'ETag: {self.etags[key]}', 'Content-Type: binary/octet-stream'], self.files[key].read_bytes()

    def kept(self, method, target, headers, body):
        "(status, headers, body) of a request for the bucket of the output"
        url = urlsplit(target)
        key = unquote(url.path).lstrip('/').partition('/')[2]
        self.requests[f'output {method}'] += 1
        return self.out.answer(method, key, parse_qs(url.query, keep_blank_values=True), headers, body)

    async def pass_on(self, head, body):
        "What the endpoint behind answers, as it is"
        reader, writer = await asyncio.open_connection(self.behind.hostname, self.behind.port)
        lines = [line for line in head.split(b'\r\n') if not line.lower().startswith((b'connection:', b'expect:'))]
        writer.write(b'\r\n'.join(lines[:1] + [b'Connection: close'] + lines[1:]) + body)
        answer = await reader.read()
        writer.close()
        return answer

    async def talk(self, reader, writer):
        try:
            while True:
                head = await reader.readuntil(b'\r\n\r\n')
                first, *lines = head.decode('latin-1').split('\r\n')
                method, target, _ = first.split(' ')
                headers = {
                    name.lower(): value.strip() for name, _, value in (line.partition(':') for line in lines if line)}
                if 'expect' in headers: writer.write(b'HTTP/1.1 100 Continue\r\n\r\n')
                length = int(headers.get('content-length', 0))
                body = await reader.readexactly(length) if length else b''
                await asyncio.sleep(self.latency)
                if target.startswith((f'/{BUCKET}/', f'/{BUCKET}?', f'/{OUT}/', f'/{OUT}?')):
                    if target.startswith(f'/{BUCKET}'): status, more, data = self.own(method, target, headers)
                    else: status, more, data = self.kept(method, target, headers, body)
                    writer.write(
                        '\r\n'.join([
                            f'HTTP/1.1 {status} X', f'Date: {formatdate(usegmt=True)}', f'Content-Length: {len(data)}',
                            *more, '', '']).encode()
                        + data)
                    await writer.drain()
                else:
                    self.requests['other'] += 1
                    writer.write(await self.pass_on(head, body))
                    await writer.drain()
                    break       # the answer said that the connection is closed
        except (asyncio.IncompleteReadError, ConnectionError): pass
        finally: writer.close()

    async def serve(self, ready):
        server = await asyncio.start_server(self.talk, '127.0.0.1', 0, limit=1 << 20, backlog=512)
        self.address = f'http://127.0.0.1:{server.sockets[0].getsockname()[1]}'
        ready.set()
        async with server: await server.serve_forever()

    def start(self):
        "Serve in a thread of its own"
        ready = Event()
        Thread(target=lambda: asyncio.run(self.serve(ready)), daemon=True).start()
        ready.wait()
        return self


def main():
    import aws

    from bench import keep, land, measure, ours
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--files', type=int, default=12500)
    parser.add_argument('--rounds', type=int, default=3)
    parser.add_argument('--latency', type=float, default=30, help='milliseconds')
    parser.add_argument('--output', choices=('s3', 'disk'), default='s3', help='where the consolidated files go')
    parser.add_argument('--write', action='store_true', help='keep the results for the README')
    a = parser.parse_args()
    folder = land(a.files) / 'landing/chargebacks'
    with aws.moto() as behind:
        endpoint = Endpoint(folder, behind, a.latency / 1000).start()
        glue = aws.client('glue', behind)
        glue.create_database(DatabaseInput={'Name': 'landing'})
        storage = {'Location': f's3://{BUCKET}', 'Columns': []}
        glue.create_table(
            DatabaseName='landing',
            TableInput={
                'Name': 'chargebacks', 'StorageDescriptor': storage,
                'PartitionKeys': [{'Name': n, 'Type': 'string'} for n in ('year', 'month', 'day')]})
        glue.create_partition(
            DatabaseName='landing', TableName='chargebacks',
            PartitionInput={
                'Values': ['2025', '11', '02'],
                'StorageDescriptor': dict(storage, Location=f's3://{BUCKET}/2025/11/02')})
        os.environ['AWS_ENDPOINT_URL'] = endpoint.address
        runs = []
        for round in range(a.rounds):
            endpoint.requests.clear()
            endpoint.out = Memory()
            with tempfile.TemporaryDirectory(dir=ROOT / 'build/bench') as disk:
                served = time.process_time()
                took = measure(ours(None, f's3://{OUT}/day' if a.output == 's3' else disk + '/out'))
                served = time.process_time() - served
            stages = [line for line in took.said.splitlines() if line.startswith('stage')]
            runs.append({
                'seconds': took.seconds, 'peak': took.peak, 'cpu': took.cpu, 'server_cpu': served,
                'files_per_second': a.files / took.seconds,
                'gets_per_file': endpoint.requests['GET object'] / a.files, 'lists': endpoint.requests['GET list'],
                'heads': endpoint.requests['HEAD object'], 'other': endpoint.requests['other'],
                **{f'output_{kind.lower()}s': endpoint.requests[f'output {kind}'] for kind in ('GET', 'PUT', 'POST')}})
            print(
                f'round {round + 1}: {took.seconds:.1f} s, {a.files / took.seconds:.0f} files/s, CPU {took.cpu:.1f} s, '
                f'and of the server {served:.1f}, {dict(endpoint.requests)}',
                *stages, sep='\n  ', flush=True)
    found = {key: statistics.median(run[key] for run in runs) for key in runs[0]}
    print(
        f'median of {a.rounds}: {found["files_per_second"]:.0f} files a second with {a.latency:.0f} ms a request, '
        f'{found["gets_per_file"]:.2f} GETs a file, {found["lists"]:.0f} LISTs'
    )
    if a.write:
        name = 's3' if a.output == 's3' else 's3, output on a disk'
        keep(name, {'latency_ms': a.latency, 'files': a.files, 'rounds': a.rounds, 'output': a.output, **found})


if __name__ == '__main__':
    from bench import interruptible
    with interruptible(): main()
