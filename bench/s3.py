"""An S3 endpoint in which every request takes 30 ms, and how many landing files a second the job does over it.

    python bench/s3.py [--files 12500] [--rounds 3] [--latency 30] [--output disk|s3] [--write]

The landing bucket is served from a folder by a small asynchronous server, since nothing else here answers a thousand
requests a second; all other requests, those that write included, it hands to moto. The latency is added to each
request, and many can wait at once, as in S3. The consolidated files go to the disk unless `--output s3` sends them
to moto, which takes most of a core for hashing them: then one measures moto.
"""
import argparse
import asyncio
import hashlib
import os
import statistics
import sys
import tempfile
from collections import Counter
from email.utils import formatdate
from pathlib import Path
from threading import Event, Thread
from urllib.parse import parse_qs, unquote, urlsplit
from xml.sax.saxutils import escape

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / 'tests/support'), str(ROOT / 'bench')]
BUCKET, LIST = (
    'landing', '<?xml version="1.0" encoding="UTF-8"?><ListBucketResult><Name>landing</Name>{}</ListBucketResult>')


class Endpoint:
    """Serves `folder` as the bucket `landing`, everything else from the endpoint `behind`; `requests` counts by
    method and kind"""

    def __init__(self, folder, behind, latency):
        self.behind, self.latency, self.requests = urlsplit(behind), latency, Counter()
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
        if not key: return 200, ['Content-Type: application/xml'], self.listing(parse_qs(url.query)).encode()
        if key not in self.files:
            return 404, ['Content-Type: application/xml'], b'<Error><Code>NoSuchKey</Code></Error>'
        if headers.get('if-match', self.etags[key]) != self.etags[key]:
            return 412, ['Content-Type: application/xml'], b'<Error><Code>PreconditionFailed</Code></Error>'
        return 200, [f'ETag: {self.etags[key]}', 'Content-Type: binary/octet-stream'], self.files[key].read_bytes()

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
                if method in ('GET', 'HEAD') and target.startswith((f'/{BUCKET}/', f'/{BUCKET}?')):
                    status, more, data = self.own(method, target, headers)
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
    parser.add_argument('--output', choices=('disk', 's3'), default='disk')
    parser.add_argument('--write', action='store_true', help='keep the results for the README')
    a = parser.parse_args()
    folder = land(a.files) / 'landing/chargebacks'
    with aws.moto() as behind:
        endpoint = Endpoint(folder, behind, a.latency / 1000).start()
        aws.client('s3', behind).create_bucket(
            Bucket='out', CreateBucketConfiguration={'LocationConstraint': aws.REGION})
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
            folder = f's3://out/{round}' if a.output == 's3' else tempfile.mkdtemp(dir=ROOT / 'build/bench') + '/out'
            seconds, peak, text = measure(ours(None, folder))
            stages = [line for line in text.splitlines() if line.startswith('stage')]
            runs.append({
                'seconds': seconds, 'peak': peak, 'files_per_second': a.files / seconds,
                'gets_per_file': endpoint.requests['GET object'] / a.files, 'lists': endpoint.requests['GET list'],
                'heads': endpoint.requests['HEAD object'], 'other': endpoint.requests['other']})
            print(
                f'round {round + 1}: {seconds:.1f} s, {a.files / seconds:.0f} files/s, {dict(endpoint.requests)}',
                *stages, sep='\n  ', flush=True)
    found = {key: statistics.median(run[key] for run in runs) for key in runs[0]}
    print(
        f'median of {a.rounds}: {found["files_per_second"]:.0f} files a second with {a.latency:.0f} ms a request, '
        f'{found["gets_per_file"]:.2f} GETs a file, {found["lists"]:.0f} LISTs'
    )
    if a.write: keep('s3', {'latency_ms': a.latency, 'files': a.files, 'rounds': a.rounds, **found})


if __name__ == '__main__': main()
