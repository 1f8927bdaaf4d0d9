"""AWS on this machine: moto over HTTP, Ceph as a second S3, and a proxy before them that counts requests and makes
some fail.

CHARGEBACK_S3=ceph lets all tests of S3 run on Ceph; without it most run on moto alone.
"""
import http.client
import os
import random
import socket
import struct
import subprocess
import sys
import threading
import time
from collections import Counter
from contextlib import contextmanager
from functools import cache
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import boto3
from ceph import Absent, ceph, check_installed

REGION = 'eu-west-1'
os.environ.setdefault('AWS_ACCESS_KEY_ID', 'testing')
os.environ.setdefault('AWS_SECRET_ACCESS_KEY', 'testing')
os.environ.setdefault('AWS_DEFAULT_REGION', REGION)
os.environ.setdefault('AWS_EC2_METADATA_DISABLED', 'true')


def free_port():
    with socket.socket() as s:
        s.bind(('127.0.0.1', 0))
        return s.getsockname()[1]


@contextmanager
def moto(**settings):
    "The address of a moto server in a process of its own, with these environment variables"
    port = free_port()
    server = subprocess.Popen(
        [sys.executable, '-m', 'moto.server', '-p', str(port)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        env=dict(os.environ, **settings))
    try:
        for _ in range(300):
            try:
                socket.create_connection(('127.0.0.1', port), 1).close()
                break
            except OSError: time.sleep(0.1)
        yield f'http://127.0.0.1:{port}'
    finally:
        server.kill()
        server.wait()


class Endpoint(str):
    "The address of an S3 server that is nothing else; `catalog` is that of the other services"
    catalog = None


def catalog_of(endpoint):
    "Where the Glue catalog and CloudWatch are"
    return getattr(endpoint, 'catalog', None) or endpoint


@contextmanager
def s3_server(kind):
    "The address of an S3 server of its own: 'moto' or 'ceph'; the test is skipped by name where Ceph cannot run"
    if kind == 'moto':
        with moto() as address: yield address
        return
    import pytest
    try: check_installed()
    except Absent as e: pytest.skip(str(e))
    with ceph() as address, moto() as other:
        endpoint = Endpoint(address)
        endpoint.catalog = other
        yield endpoint


SERVER = os.environ.get('CHARGEBACK_S3', 'moto')
BOTH = ('moto', 'ceph') if SERVER == 'moto' else (SERVER,)


def client(service, endpoint):
    return client_at(service, str(endpoint) if service == 's3' else str(catalog_of(endpoint)))


@cache
def client_at(service, address):
    "One client for each address: to make one takes longer than most requests"
    return boto3.client(service, endpoint_url=address, region_name=REGION)


def place(endpoint):
    "The environment variables that send S3 to `endpoint` and everything else to the server beside it"
    if catalog_of(endpoint) == endpoint: return {'AWS_ENDPOINT_URL': endpoint, 'AWS_ENDPOINT_URL_S3': None}
    return {'AWS_ENDPOINT_URL': catalog_of(endpoint), 'AWS_ENDPOINT_URL_S3': str(endpoint)}


def operation(method, path):
    "What a request to S3 does, in the words of its API"
    url = urlsplit(path)
    query = parse_qs(url.query, keep_blank_values=True)
    has_key = '/' in url.path.strip('/')
    if method == 'GET' and 'uploadId' in query: return 'LIST_PARTS'
    if method == 'GET':
        return 'GET' if has_key and 'uploads' not in query else 'LIST_UPLOADS' if 'uploads' in query else 'LIST'
    if method == 'POST':
        return 'CREATE_UPLOAD' if 'uploads' in query else 'COMPLETE' if 'uploadId' in query else 'DELETE'
    if method == 'PUT': return 'UPLOAD_PART' if 'uploadId' in query else 'PUT'
    return 'ABORT' if method == 'DELETE' and 'uploadId' in query else method


REFUSALS = {
    '503': 'SlowDown', '403': 'AccessDenied', '403 archived': 'InvalidObjectState', '400 expired': 'ExpiredToken',
    '403 wrong': 'InvalidAccessKeyId', '400 key': 'KMS.DisabledException'}


class Proxy:
    """A proxy to S3. `requests` holds (operation, path); `fault` decides for each request: None, one of REFUSALS,
    'reset', 'lost' (done, but the answer is not sent) or 'slow'."""

    def __init__(self, target, fault=lambda number, operation, path: None):
        self.target, self.fault, self.requests, self.faults, self.lock = (
            urlsplit(target), fault, [], Counter(), threading.Lock())
        proxy = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = 'HTTP/1.1'

            def log_message(self, *args): pass

            def handle_any(self):
                body = self.rfile.read(int(self.headers.get('Content-Length') or 0))
                done = operation(self.command, self.path)
                with proxy.lock:
                    proxy.requests.append((done, urlsplit(self.path).path))
                    proxy.heard(self.command, self.path, self.headers, body)
                    fault = proxy.fault(len(proxy.requests), done, self.path)
                    if fault: proxy.faults[fault] += 1
                if fault == 'slow': time.sleep(0.2)
                if fault == 'reset': return self.hang_up()
                if fault in REFUSALS:
                    text = (
                        f'<?xml version="1.0"?><Error><Code>{REFUSALS[fault]}</Code><Message>secret</Message></Error>')
                    return self.answer(int(fault[:3]), [('Content-Type', 'application/xml')], text.encode())
                status, headers, text = self.forward(body)
                if fault == 'lost': return self.hang_up()
                self.answer(status, headers, text)

            def forward(self, body):
                connection = http.client.HTTPConnection(proxy.target.hostname, proxy.target.port, timeout=60)
                connection.request(
                    self.command, self.path, body, {k: v for k, v in self.headers.items() if k.lower() != 'expect'})
                answer = connection.getresponse()
                text = answer.read()
                connection.close()
                return answer.status, answer.getheaders(), text

            def answer(self, status, headers, text):
                self.send_response(status)
                length = None
                for k, v in headers:
                    if k.lower() == 'content-length': length = v
                    elif k.lower() not in ('transfer-encoding', 'connection', 'date', 'server'): self.send_header(k, v)
                self.send_header('Content-Length', length if self.command == 'HEAD' and length else str(len(text)))
                self.end_headers()
                if self.command != 'HEAD': self.wfile.write(text)

            def hang_up(self):
                self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack('ii', 1, 0))
                self.close_connection = True
                self.connection.close()

            do_GET = do_PUT = do_POST = do_DELETE = do_HEAD = handle_any

        class Server(ThreadingHTTPServer):
            daemon_threads = True
            request_queue_size = 128

            def handle_error(self, request, address): pass

        self.server = Server(('127.0.0.1', 0), Handler)
        self.endpoint = Endpoint(f'http://127.0.0.1:{self.server.server_address[1]}')
        self.endpoint.catalog = getattr(target, 'catalog', None)

    def __enter__(self):
        threading.Thread(target=self.server.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *args):
        self.server.shutdown()
        self.server.server_close()

    def heard(self, method, path, headers, body): "A request as it came, for those who want more of it"

    def count(self, *operations, under=''):
        return sum(1 for done, path in self.requests if done in operations and under in path)


class Held(Proxy):
    "A proxy that passes a request on once `wait(operation, path)` returns"

    def __init__(self, target, wait):
        super().__init__(target)
        self.wait = wait

    def heard(self, method, path, headers, body):
        self.lock.release()     # others are heard meanwhile
        try: self.wait(operation(method, path), urlsplit(path).path)
        finally: self.lock.acquire()


def seeded(seed, share):
    "A fault for a `share` of all requests"
    chance = random.Random(seed)
    return lambda number, operation, path: (
        chance.choice(['503', 'reset', 'lost', 'slow']) if chance.random() < share else None)


@contextmanager
def environment(**values):
    "Environment variables for a while; None removes one"
    before = {k: os.environ.get(k) for k in values}
    def put(wanted):
        for k, v in wanted.items():
            if v is None: os.environ.pop(k, None)
            else: os.environ[k] = v
    put(values)
    try: yield
    finally: put(before)


def upload(endpoint, folder, bucket, prefix=''):
    "Copy a local folder into a bucket, which is created"
    s3 = client('s3', endpoint)
    s3.create_bucket(Bucket=bucket, CreateBucketConfiguration={'LocationConstraint': REGION})
    for path in sorted(Path(folder).rglob('*')):
        if path.is_file():
            s3.put_object(Bucket=bucket, Key=prefix + path.relative_to(folder).as_posix(), Body=path.read_bytes())
