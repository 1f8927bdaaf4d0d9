"""`aws` and `terraform` for the commands of our pages, on a machine without an account.

Each word is checked: those of `aws` by botocore's own model of the service, those of `terraform` by the module's
files. Then `aws s3` does what it says with local folders, `aws glue start-job-run` runs the exported script with the
deployed job's arguments and the given ones, as Glue would, and keeps its exit code in `$RUNS`, and `terraform
output` tells of the local lake. Whatever else is right prints nothing. What is wrong is one line on stderr, exit
code 252 as the AWS CLI has it.
"""
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
SCRIPT, MODULE = ROOT / 'glue_export/consolidate_chargebacks.py', ROOT / 'glue_export/terraform'
OUTPUT, LEDGER, LANDING = (
    f'{os.getcwd()}/lake/{name}'
    for name in ('consolidated/chargebacks', 'consolidated/_chargebacks', 'landing/chargebacks'))
ARGUMENTS = {
    'CATALOG': 'lake', 'SOURCE_DATABASE': 'landing', 'SOURCE_TABLE': 'chargebacks', 'OUTPUT_PATH': OUTPUT,
    'LEDGER_PATH': LEDGER, 'OUTPUT_FILE_COUNT': '3', 'COMPRESSION_CODEC': 'zstd'}
OUTPUTS = {
    'output_path': OUTPUT, 'ledger_path': LEDGER, 'landing_path': LANDING,
    'not_started_queue_url': 'https://sqs.eu-central-1.amazonaws.com/123456789012/not-started',
    'job_arguments': ' '.join(f"--{name.lower().replace('_', '-')} {value}" for name, value in ARGUMENTS.items())}
OWN = {
    's3': {
        'ls': {'--recursive', '--summarize', '--human-readable'}, 'rm': {'--recursive', '--dryrun'},
        'mv': {'--recursive', '--dryrun'}},
    'logs': {'tail': {'--follow', '--since', '--log-stream-name-prefix', '--filter-pattern', '--format'}}
}  # commands that are no operations of the service


class Wrong(Exception):
    "What a command would refuse"


FLAGS = {'--recursive', '--summarize', '--human-readable', '--dryrun', '--follow'}


def options(words):
    "The words that belong to no option of `words`, and {--option: its values}"
    places, found, name = [], {}, None
    for word in words:
        if word.startswith('--'):
            if word in found: raise Wrong(f'{word} is given twice')
            name, found[word] = None if word in FLAGS else word, []
        elif name: found[name].append(word)
        else: places.append(word)
    return places, found


def check_general(found):
    "Take --query and --output, which every operation has, out of `found`"
    import jmespath
    for text in found.pop('--query', ()): jmespath.compile(text)
    if found.pop('--output', ['json'])[0] not in ('json', 'text', 'table'):
        raise Wrong('--output is json, text or table')


def check_operation(service, command, found):
    "The parameters of an operation, by botocore's model of it"
    import botocore.session
    from botocore import xform_name
    model = botocore.session.get_session().get_service_model(service)
    operation = next(
        (model.operation_model(name) for name in model.operation_names if xform_name(name, '-') == command), None)
    if operation is None: raise Wrong(f'{service} has no {command}')
    members = {f"--{xform_name(name, '-')}": (name, shape) for name, shape in operation.input_shape.members.items()}
    given = {}
    for option, values in found.items():
        if option not in members: raise Wrong(f'{service} {command} has no {option}')
        name, shape = members[option]
        if not values: raise Wrong(f'{option} has no value')
        if shape.type_name in ('structure', 'map'): values = [json.loads(values[0])]
        if shape.type_name in ('integer', 'long'): values = [int(values[0])]
        if shape.type_name != 'list' and len(values) > 1: raise Wrong(f'{option} takes one value, not {values}')
        given[name] = values if shape.type_name == 'list' else values[0]
    lacking = set(operation.input_shape.required_members) - set(given)
    if lacking: raise Wrong(f'{service} {command} lacks {sorted(lacking)}')
    return given


def start_job_run(given):
    "Run the script as Glue would; Glue answers at once, so the exit code goes to a file"
    known = {f'--{name}': value for name, value in ARGUMENTS.items()}
    words = [
        word
        for pair in {**known, **given.get('Arguments', {}), '--JOB_NAME': given['JobName']}.items()
        for word in pair]
    done = subprocess.run([sys.executable, SCRIPT, *words], capture_output=True, text=True)
    with open(os.environ['RUNS'], 'a') as runs:
        print(json.dumps([given.get('Arguments', {}), done.returncode, done.stdout, done.stderr]), file=runs)
    print(json.dumps({'JobRunId': 'jr_0'}))


def s3(command, places, found):
    "An `aws s3` command on local folders"
    if '--recursive' not in found and command != 'ls':
        raise Wrong(f's3 {command} of a folder without --recursive does nothing')
    here, *there = map(Path, places)
    if command == 'ls':
        print(*sorted(p for p in (here.rglob('*') if '--recursive' in found else here.glob('*'))), sep='\n')
    if command == 'rm': shutil.rmtree(here)
    if command == 'mv':
        there[0].parent.mkdir(parents=True, exist_ok=True)
        shutil.move(here, there[0])


def aws(words):
    service, command, *rest = words
    places, found = options(rest)
    check_general(found)
    own = OWN.get(service, {}).get(command)
    if own is None:
        if places: raise Wrong(f'{places[0]!r} has no option')
        given = check_operation(service, command, found)
        if command == 'start-job-run': start_job_run(given)
        return
    if set(found) - own: raise Wrong(f'{service} {command} has no {sorted(set(found) - own)}')
    if len(places) != (2 if command == 'mv' else 1): raise Wrong(f'{service} {command} got {places}')
    if service == 's3': s3(command, places, found)


def declared(kind, file): return set(re.findall(rf'^{kind} "(\w+)"', (MODULE / file).read_text(), re.M))


def terraform(words):
    folder, command, *rest = words
    if not Path(folder.removeprefix('-chdir='), 'main.tf').exists(): raise Wrong(f'{folder} has no module')
    if command == 'output':
        names = [word for word in rest if not word.startswith('-')]
        if set(rest) - {'-raw', '-json', *names}: raise Wrong(f'output has no {rest}')
        unknown = set(names) - declared('output', 'outputs.tf')
        if unknown: raise Wrong(f'there is no output {sorted(unknown)}')
        print(''.join(OUTPUTS.get(name, name) for name in names), end='' if '-raw' in rest else '\n')
    elif command in ('apply', 'plan'):
        while rest:
            word = rest.pop(0)
            if word.startswith('-var-file='): text = Path(word[10:]).read_text()
            elif word == '-var': text = rest.pop(0)
            else: raise Wrong(f'{command} has no {word}')
            unknown = set(re.findall(r'^(\w+) *=', text, re.M)) - declared('variable', 'variables.tf')
            if unknown: raise Wrong(f'there is no variable {sorted(unknown)}')
    elif command != 'init' or rest: raise Wrong(f'{command} {rest}')


def make(words):
    "Say what make would do: that needs the target, and does nothing"
    done = subprocess.run(
        ['/usr/bin/env', '-S', 'make', '-n', *words], cwd=ROOT, env={**os.environ, 'PATH': os.environ['REAL_PATH']},
        capture_output=True, text=True)
    if done.returncode: raise Wrong(done.stderr)


if __name__ == '__main__':
    try: {'aws': aws, 'terraform': terraform, 'make': make}[sys.argv[1]](sys.argv[2:])
    except (Wrong, ValueError, OSError) as e:
        print(f"{' '.join(sys.argv[1:])}: {e}", file=sys.stderr)
        sys.exit(252)
