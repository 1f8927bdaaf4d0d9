"The Terraform module against a moto server: what the tests of the deployment share."
import json
import logging
import os
import re
import shutil
import subprocess
import sys
import uuid
from pathlib import Path

ROOT = Path(__file__).parents[2]
MODULE = ROOT / 'glue_export/terraform'
SCRIPT = ROOT / 'glue_export/consolidate_chargebacks.py'
REGION = 'eu-central-1'


class Missing(Exception):
    "Terraform or its AWS provider is not to be had on this machine; the message says which."


class Moto:
    """A moto server in a process of its own, with what the module needs and moto lacks; ends with this process at
    the latest"""

    def __init__(self):
        self.process = subprocess.Popen(
            [sys.executable, __file__], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.url = self.process.stdout.readline().strip()
        if not self.url: raise RuntimeError('the moto server did not start')

    def __enter__(self): return self
    def __exit__(self, *_): self.close()

    def close(self):
        self.process.stdin.close()
        self.process.wait(10)

    def client(self, service):
        import boto3
        return boto3.client(
            service, endpoint_url=self.url, region_name=REGION, aws_access_key_id='test', aws_secret_access_key='test')


class Stack:
    """The module in a working folder with its state: `apply`, `plan`, `destroy`, `outputs`. What `apply` is given
    holds from then on"""

    def __init__(self, folder, endpoint):
        self.program, self.variables = shutil.which('terraform'), {}
        if not self.program: raise Missing('terraform is not installed')
        # The module's default for script_path is the file beside its folder.
        self.folder = Path(folder) / 'glue_export/terraform'
        shutil.copytree(MODULE, self.folder, ignore=shutil.ignore_patterns('.terraform*', '*.tfstate*', '*.tfvars*'))
        shutil.copy(ROOT / 'tests/deploy/terraform/provider.tf', self.folder / 'provider.tf')
        self.script = self.folder.parent / SCRIPT.name
        if SCRIPT.exists(): shutil.copy(SCRIPT, self.script)
        else:
            self.script.write_text(
                "print('METRICS: records_processed=0, duplicates_removed=0, output_files=0, duration_seconds=0.00')\n")
        self.environment = dict(
            os.environ, AWS_ENDPOINT_URL=endpoint, TF_IN_AUTOMATION='1', TF_INPUT='0', CHECKPOINT_DISABLE='1')
        for name in ('AWS_PROFILE', 'AWS_REGION', 'AWS_DEFAULT_REGION', 'TF_DATA_DIR', 'TF_WORKSPACE'):
            self.environment.pop(name, None)
        if not os.path.exists(os.environ.get('TF_CLI_CONFIG_FILE', '')):
            self.environment.pop('TF_CLI_CONFIG_FILE', None)

    def run(self, *words, expect=(0,)):
        "Run Terraform; the exit code and what it printed. AssertionError if the exit code is not in `expect`"
        done = subprocess.run(
            [self.program, f'-chdir={self.folder}', *words], env=self.environment, stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT, text=True)
        assert expect is None or done.returncode in expect, f"terraform {' '.join(words)}\n{done.stdout}"
        return done.returncode, done.stdout

    def init(self):
        "Install the provider: from the mirror in TERRAFORM_PLUGIN_DIR, else from where Terraform looks by itself"
        mirror = os.environ.get('TERRAFORM_PLUGIN_DIR')
        code, text = self.run(
            'init', '-no-color', '-backend=false', *([f'-plugin-dir={mirror}'] if mirror else []), expect=None)
        if code and mirror: raise AssertionError(f'terraform init from TERRAFORM_PLUGIN_DIR={mirror}\n{text}')
        if code:
            raise Missing(
                'terraform init cannot get hashicorp/aws: set TERRAFORM_PLUGIN_DIR to the root of a mirror that has it')
        return self

    def _write(self, variables):
        (self.folder / 'test.auto.tfvars.json').write_text(json.dumps(variables))

    def apply(self, **variables):
        "Apply; the counts (added, changed, destroyed)"
        self.variables.update(variables)
        self._write(self.variables)
        _, text = self.run('apply', '-auto-approve', '-no-color')
        return tuple(map(int, re.search(r'(\d+) added, (\d+) changed, (\d+) destroyed', text).groups()))

    def plan(self, *words, **variables):
        "Plan with other variables; {address: (actions, planned values)} of the resources that would change"
        self._write({**self.variables, **variables})
        self.run('plan', '-no-color', '-out=test.plan', *words)
        _, text = self.run('show', '-json', 'test.plan')
        return {
            c['address']: (c['change']['actions'], c['change']['after'])
            for c in json.loads(text)['resource_changes']
            if c['change']['actions'] not in (['no-op'], ['read'])}

    def refusal(self, **variables):
        "What Terraform says against the variables, on one line"
        self._write({**self.variables, **variables})
        return ' '.join(self.run('plan', '-no-color', '-refresh=false', expect=(1,))[1].replace('│', ' ').split())

    def addresses(self): return self.run('state', 'list')[1].split()
    def outputs(self): return {k: v['value'] for k, v in json.loads(self.run('output', '-json')[1]).items()}

    def destroy(self):
        self._write(self.variables)
        self.run('destroy', '-auto-approve', '-no-color')


def complete_moto():
    "Add to moto what the module needs and moto lacks: saved queries, a changed Glue job, and one whose starts wait"
    from moto.core.responses import ActionResult
    from moto.glue.models import FakeJob
    from moto.glue.responses import GlueResponse
    from moto.logs.responses import LogsResponse
    queries = {}

    def put_query_definition(self):
        known = self._get_param('queryDefinitionId') or str(uuid.uuid4())
        queries[known] = {
            'queryDefinitionId': known, 'name': self._get_param('name'), 'queryString': self._get_param('queryString'),
            'logGroupNames': self._get_param('logGroupNames') or []}
        return json.dumps({'queryDefinitionId': known})

    def describe_query_definitions(self):
        prefix = self._get_param('queryDefinitionNamePrefix') or ''
        return json.dumps({'queryDefinitions': [q for q in queries.values() if q['name'].startswith(prefix)]})

    def delete_query_definition(self):
        return json.dumps({'success': queries.pop(self._get_param('queryDefinitionId'), None) is not None})

    def update_job(self):
        job, new = self.glue_backend.get_job(self._get_param('JobName')), self._get_param('JobUpdate')
        fields = {
            'Description': 'description', 'Role': 'role', 'ExecutionProperty': 'execution_property',
            'Command': 'command', 'DefaultArguments': 'default_arguments', 'MaxRetries': 'max_retries',
            'Timeout': 'timeout', 'GlueVersion': 'glue_version', 'SecurityConfiguration': 'security_configuration',
            'NumberOfWorkers': 'number_of_workers', 'WorkerType': 'worker_type', 'ExecutionClass': 'execution_class'}
        for name, field in fields.items(): setattr(job, field, new.get(name))
        job.queuing = new.get('JobRunQueuingEnabled')
        return ActionResult({'JobName': job.name})

    create_job, as_dict = GlueResponse.create_job, FakeJob.as_dict

    def create_job_that_waits(self):
        done = create_job(self)
        self.glue_backend.get_job(self._get_param('Name')).queuing = self._get_param('JobRunQueuingEnabled')
        return done

    def with_queuing(self): return dict(as_dict(self), JobRunQueuingEnabled=getattr(self, 'queuing', None))

    for missing in (put_query_definition, describe_query_definitions, delete_query_definition):
        setattr(LogsResponse, missing.__name__, missing)
    GlueResponse.update_job, GlueResponse.create_job, FakeJob.as_dict = update_job, create_job_that_waits, with_queuing


def serve():
    "Print the address of a moto server that lives until stdin ends"
    from moto.server import ThreadedMotoServer
    logging.getLogger('werkzeug').setLevel(logging.ERROR)
    complete_moto()
    server = ThreadedMotoServer('127.0.0.1', 0, verbose=False)
    server.start()
    print('http://{}:{}'.format(*server.get_host_and_port()), flush=True)
    sys.stdin.read()
    server.stop()


if __name__ == '__main__': serve()
