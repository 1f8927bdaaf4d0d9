"""Small objects in S3 are asked for before they are needed: always the bytes that were listed, one request for each
unless it fails, many on their way at once, nothing open that nobody waits for (C10)."""
import datetime
import ipaddress
import os
import random
import ssl
import threading
import time
from contextlib import suppress

import boto3
import pytest
from aws import Held, Proxy, client, environment, free_port, moto, place
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from chargeback_consolidation import s3
from chargeback_consolidation.s3 import HOSTS, S3Host, S3Store, is_quiet
from chargeback_consolidation.store import FileEntry, SourceChanged, StoreError, read_each

pytestmark = pytest.mark.xdist_group('s3_ahead')
FILES = 150
WANTED = {f's3://landing/day/part-{i:03d}.parquet': random.Random(i).randbytes(i * 700) for i in range(FILES)}


@pytest.fixture(scope='module')
def endpoint():
    with moto() as address:
        there = client('s3', address)
        there.create_bucket(Bucket='landing', CreateBucketConfiguration={'LocationConstraint': 'eu-west-1'})
        for path, data in WANTED.items(): there.put_object(Bucket='landing', Key=path[len('s3://landing/'):], Body=data)
        yield address


def store_at(address, **more):
    "(a store, what it lists), without a host that an earlier test has found"
    HOSTS.clear()
    with environment(**place(address), **more):
        store = S3Store()
        store.connect()
    return store, store.list('s3://landing/day')


def read(store, entries): return {entry.path: data for entry, data in read_each(store, entries)}


def gets(proxy): return proxy.count('GET', under='/day/')


def test_all_are_asked_for_directly_once_and_come_in_order(endpoint, monkeypatch):
    with Proxy(endpoint) as proxy:
        store, entries = store_at(proxy.endpoint)
        monkeypatch.setattr(store.client, 'get_object', None)
        for _ in range(2):      # the second time over connections that are there
            assert [(e.path, data) for e, data in read_each(store, entries)] == list(WANTED.items())
        assert gets(proxy) == 2 * FILES
        [host] = HOSTS.values()
        assert 0 < len(host.idle) <= 2 * store.threads + 1
        assert all(is_quiet(connection.sock) for connection in host.idle)


def test_many_are_on_their_way_at_once(endpoint):
    "As many as the window holds: nobody answers until all of them were asked for"
    together = threading.Barrier(2 * S3Store.threads)
    def wait(done, path):
        with suppress(threading.BrokenBarrierError):
            if '/day/' in path: together.wait(20)
    with Held(endpoint, wait) as proxy:
        store, entries = store_at(proxy.endpoint)
        first = entries[:2 * S3Store.threads]
        assert read(store, first) == {e.path: WANTED[e.path] for e in first}
        assert not together.broken and gets(proxy) == len(first)


def endpoint_of(proxy): return f'http://{proxy.target.netloc}'


def spoiled(kind, times=1):
    "A proxy that spoils the first answers to requests for objects"
    class Spoiling(Proxy):
        left = times
        def forward_with(self, handler, forward, body):
            status, headers, text = forward(handler, body)
            if '/day/' not in handler.path or handler.command != 'GET' or not self.left: return status, headers, text
            self.left -= 1
            if kind == 'part': return 206, headers, text
            if kind == 'other':
                tag = client('s3', endpoint_of(self)).head_object(Bucket='landing', Key='day/part-149.parquet')['ETag']
                return 200, [(k, tag if k.lower() == 'etag' else v) for k, v in headers], b'of another object'
            if kind == 'silent': time.sleep(3)
            if kind == 'redirect': return 307, [('Location', 'http://127.0.0.1:9/')], b''
            if kind == 'short':
                handler.close_connection = True
                handler.wfile.write(b'HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n' % (len(text) + 9) + text)
                raise ConnectionAbortedError
            if kind == 'endless':
                handler.close_connection = True
                handler.wfile.write(b'HTTP/1.0 200 OK\r\n\r\n' + text[:-1])
                raise ConnectionAbortedError
            if kind == 'noise':
                handler.wfile.write(b'this is not HTTP\r\n\r\n')
                raise ConnectionAbortedError
            return status, headers, text
    return Spoiling


@pytest.mark.parametrize('kind', ['part', 'redirect', 'short', 'endless', 'noise', 'other', 'silent'])
def test_an_answer_that_is_not_what_was_listed_is_asked_for_again(endpoint, kind, monkeypatch):
    with spoiled(kind)(endpoint) as proxy:
        handler = proxy.server.RequestHandlerClass
        forward = handler.forward
        handler.forward = lambda self, body: proxy.forward_with(self, forward, body)
        store, entries = store_at(proxy.endpoint)
        monkeypatch.setattr(s3, 'READ_SECONDS', 1)
        assert read(store, entries) == WANTED and not proxy.left
        assert gets(proxy) >= FILES + 1 if kind == 'silent' else gets(proxy) == FILES + 1
        assert (store.host('landing') is None) == (kind in ('redirect', 'endless'))


@pytest.mark.parametrize('fault, given_up', [('503', False), ('reset', False), ('lost', False), ('403', True)])
def test_a_request_that_fails_is_made_again_by_the_client(endpoint, fault, given_up):
    "And where reading directly is refused, all that follow are the client's"
    seen = []
    def once(number, done, path):
        if seen or done != 'GET' or '/day/' not in path: return None
        seen.append(path)
        return fault
    with Proxy(endpoint, once) as proxy:
        store, entries = store_at(proxy.endpoint)
        assert read(store, entries) == WANTED and proxy.faults[fault] == 1
        assert (store.host('landing') is None) == given_up


@pytest.mark.parametrize('seed', range(4))
def test_whatever_fails_each_object_is_its_own_bytes_or_its_own_error(endpoint, seed, hasty):
    "A third of all answers fail, some for good"
    chance = random.Random(seed)
    refused = {e for e in WANTED if chance.random() < 0.1}
    changed = {e for e in WANTED if chance.random() < 0.1} - refused
    def fault(number, done, path):
        if done != 'GET' or '/day/' not in path: return None
        if 's3:/' + path in refused: return '403'
        return chance.choice(['503', 'reset', 'lost']) if chance.random() < 0.33 else None
    with Proxy(endpoint, fault) as proxy:
        store, entries = store_at(proxy.endpoint)
        asked = [e._replace(etag='0' * 32) if e.path in changed else e for e in entries]
        found = read(store, asked)
    assert list(found) == list(WANTED)
    for path, data in found.items():
        if path in changed: assert isinstance(data, SourceChanged) and path in str(data)
        elif path in refused: assert isinstance(data, StoreError) and path in str(data)
        else: assert data == WANTED[path]


def test_who_stops_in_the_middle_leaves_no_request_open(endpoint):
    "An answer that nobody reads would be taken for that of the next request over its connection"
    with Proxy(endpoint) as proxy:
        store, entries = store_at(proxy.endpoint)
        opened, connect = [], S3Host.connect
        def noted(host):
            opened.append(connect(host))
            return opened[-1]
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(S3Host, 'connect', noted)
            reading = read_each(store, entries)
            for _ in range(5): next(reading)
            reading.close()
        idle = HOSTS[next(iter(HOSTS))].idle
        assert len(opened) > 60 and all(connection.sock is None for connection in opened if connection not in idle)
        assert read(store, entries) == WANTED


@pytest.mark.parametrize('says_so', [False, True])
def test_a_connection_that_the_server_has_closed_is_not_used(endpoint, monkeypatch, says_so):
    "Whether it has announced that or not, nothing must be asked again by the client"
    with Proxy(endpoint) as proxy:
        handler = proxy.server.RequestHandlerClass
        answer, end = handler.answer, handler.end_headers
        def silently(self, *told):
            answer(self, *told)
            self.close_connection = True
        def announced(self):
            self.send_header('Connection', 'close')
            end(self)
        store, entries = store_at(proxy.endpoint)
        if says_so: handler.end_headers = announced
        else: handler.answer = silently
        monkeypatch.setattr(store.client, 'get_object', None)
        assert read(store, entries[:40]) == {e.path: WANTED[e.path] for e in entries[:40]}
        until = time.monotonic() + 10
        while any(c.sock and is_quiet(c.sock) for c in store.host('landing').idle) and time.monotonic() < until:
            time.sleep(0.01)
        assert read(store, entries[40:80]) == {e.path: WANTED[e.path] for e in entries[40:80]}


def test_connections_serve_the_next_task_but_no_other_process(endpoint):
    store, entries = store_at(endpoint)
    read(store, entries)
    host = store.host('landing')
    with environment(**place(endpoint)): other = S3Store()
    assert other.host('landing') is host
    begin, end = os.pipe()
    child = os.fork()
    if not child:
        with environment(**place(endpoint)): known = S3Store().host('landing')
        os.write(end, b'%d' % (host in (known, store.host('landing'))))
        os._exit(0)
    os.waitpid(child, 0)
    assert os.read(begin, 1) == b'0'


def test_an_address_that_cannot_be_reached_is_tried_once(endpoint, monkeypatch):
    "In a private network each object would wait for it"
    store, entries = store_at(endpoint)
    tried, connect = [], S3Host.connect
    monkeypatch.setattr(S3Host, 'connect', lambda host: (tried.append(host), connect(host))[1])
    store._hosts[os.getpid(), 'landing'] = S3Host(f'http://127.0.0.1:{free_port()}/landing/', None)
    assert read(store, entries) == WANTED and len(tried) == 1


def test_large_objects_are_left_to_the_threads(endpoint, monkeypatch):
    "They would not wait in the system's buffers, but come one after the other"
    store, entries = store_at(endpoint)
    monkeypatch.setattr(s3, 'AHEAD_BYTES', 50_000)
    for entry in entries:
        asked = store.ask(entry)
        assert (asked is None) == (entry.size > 50_000)
        if asked: asked.cancel()
    assert store.ask(entries[0]._replace(etag='')) is None
    assert read(store, entries) == WANTED


def test_an_address_without_a_port():
    "Also one of IPv6, whose last group http.client would take for a port"
    for address in ('http://[::1]/landing/', 'http://127.0.0.1/landing/'):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(s3.HTTPConnection, 'connect', lambda connection: None)
            connection = S3Host(address, None).connect()
        assert (connection.host, connection.port) == (address.split('/')[2].strip('[]'), 80)


@pytest.mark.parametrize(
    'words, direct', [
        ('', 'lake.s3.eu-west-1.amazonaws.com'), ('endpoint_url = http://storage.example:9000', None),
        ('s3 =\n  addressing_style = path', None),
        ('s3 =\n  addressing_style = virtual', 'lake.s3.eu-west-1.amazonaws.com')])
def test_what_the_configuration_of_aws_says_is_left_to_the_client(tmp_path, monkeypatch, words, direct):
    (tmp_path / 'config').write_text(f'[default]\n{words}\n')
    monkeypatch.setattr(boto3, 'DEFAULT_SESSION', None)     # which has read another file
    with environment(
            AWS_CONFIG_FILE=str(tmp_path / 'config'), AWS_ENDPOINT_URL=None, AWS_ENDPOINT_URL_S3=None,
            AWS_REGION='eu-west-1', AWS_ACCESS_KEY_ID='a', AWS_SECRET_ACCESS_KEY='b'):
        host = S3Store().host('lake')
    assert (host and host.url.hostname) == direct


@pytest.mark.parametrize('ours', ['HTTP_PROXY', 'http_proxy'])
def test_where_a_proxy_leads_the_client_goes(endpoint, ours):
    "A proxy is the client's to talk to, and the environment may except an address"
    with environment(**{ours: f'http://127.0.0.1:{free_port()}'}, NO_PROXY=None, no_proxy=None):
        assert s3.is_proxied(endpoint) and not s3.is_proxied('https://storage.example/')
        with environment(no_proxy='127.0.0.1'): assert not s3.is_proxied(endpoint)
    with environment(**place(endpoint), **{ours: f'http://127.0.0.1:{free_port()}'}, NO_PROXY=None, no_proxy=None):
        assert S3Store().host('landing') is None


def certified(folder):
    "(a key and its certificate for 127.0.0.1, as one file of PEM; the certificate alone)"
    key, name = ec.generate_private_key(ec.SECP256R1()), x509.Name([])
    today = datetime.datetime.now(datetime.timezone.utc)
    there = x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address('127.0.0.1'))])
    made = (
        x509.CertificateBuilder().subject_name(name).issuer_name(name).public_key(key.public_key()).serial_number(1)
        .not_valid_before(today - datetime.timedelta(days=1)).not_valid_after(today + datetime.timedelta(days=1))
        .add_extension(there, critical=True).sign(key, hashes.SHA256()))
    kinds = serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    both, alone = folder / 'both.pem', folder / 'certificate.pem'
    alone.write_bytes(made.public_bytes(kinds[0]))
    both.write_bytes(key.private_bytes(*kinds) + alone.read_bytes())
    return both, alone


def test_over_tls_only_a_server_that_is_trusted_is_asked(endpoint, tmp_path, monkeypatch):
    both, alone = certified(tmp_path)
    served = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    served.load_cert_chain(both)
    with Proxy(endpoint) as proxy:
        proxy.server.socket = served.wrap_socket(proxy.server.socket, server_side=True)
        address = proxy.endpoint.replace('http:', 'https:')
        store, entries = store_at(address, AWS_CA_BUNDLE=str(alone))
        with monkeypatch.context() as patch:
            patch.setattr(store.client, 'get_object', None)
            for _ in range(2): assert read(store, entries) == WANTED
        assert store.host('landing').idle
        HOSTS.clear()
        with environment(**place(address), AWS_CA_BUNDLE=None, AWS_MAX_ATTEMPTS='1'):
            stranger = S3Store()
            [(_, data)] = read_each(stranger, [FileEntry('s3://landing/day/part-001.parquet', 700, '0' * 32)])
        assert isinstance(data, StoreError) and 'part-001.parquet' in str(data) and stranger.host('landing') is None


def asked_for(region, bucket, endpoint=None):
    "(where the client goes to for an object, where a direct read would go)"
    with environment(AWS_ENDPOINT_URL=endpoint, AWS_ENDPOINT_URL_S3=None, AWS_REGION=region):
        store, seen = S3Store(), []
        def look(request, **kwargs):
            seen.append(request.url)
            raise InterruptedError
        store.client.meta.events.register('before-send.s3.GetObject', look)
        try: store.client.get_object(Bucket=bucket, Key='k')
        except InterruptedError: pass
        return seen[0], store.address(bucket) + 'k'


@pytest.mark.parametrize('region', ['us-east-1', 'eu-west-1', 'us-gov-west-1', 'cn-north-1'])
@pytest.mark.parametrize('bucket', ['lake', 'dotted.lake', 'point-abcdefghijklmnopqrstuvwxyz0123456789-s3alias'])
def test_a_direct_read_goes_where_the_client_goes(region, bucket):
    client_goes, direct = asked_for(region, bucket)
    assert client_goes == direct and (region in direct or region == 'us-east-1')


def test_a_direct_read_of_an_endpoint_of_ones_own():
    assert asked_for('eu-west-1', 'lake', 'http://storage.example:9000') == ('http://storage.example:9000/lake/k',) * 2
