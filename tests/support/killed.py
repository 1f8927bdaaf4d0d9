"""A run of the job that is ended at a named phase: `python killed.py [inline] PHASE argument ...`.

After `inline` Spark's part is played in the process itself, which starts in a fraction of the time.

The whole process group gets SIGKILL, the JVM and Spark's workers included; with PHASE:SIGINT or PHASE:SIGTERM the
run itself gets that signal, as from a terminal (SIGINT, the whole group) or from Glue (SIGTERM, the run alone). A
phase is a stage of the job ('look', 'index', ...: at its end), 'copying' (as soon as a file is staged), 'creating'
and 'created' (before and after the link that makes the commit record, on a disk), 'logging' and 'logged' (the same
for a version of the Delta log), or 'settling N' (after the N-th change of the roll forward).
"""
import os
import signal
import sys
import threading
import time

from inline import inline

from chargeback_consolidation import entry
from chargeback_consolidation.ledger import Ledger
from chargeback_consolidation.settings import parse
from chargeback_consolidation.store import store_for

NUMBER = signal.SIGKILL


def die(): os.kill(os.getpid(), NUMBER) if NUMBER == signal.SIGTERM else os.killpg(0, NUMBER)


def killer(phase):
    changes = []
    def observe(stage, seconds, facts):
        if stage == 'settling': changes.append(stage)
        if phase == (f'settling {len(changes)}' if stage == 'settling' else stage): die()
    return observe


def die_when_staged(settings):
    ledger = Ledger(store_for(settings.output_path), settings.output_path, settings.partition_date)
    while not ledger.store.staged(ledger.partition): time.sleep(0.002)
    die()


def die_when_linking(phase):
    link = os.link
    def killing(source, target, **kwargs):
        record, version = '/_ledger/' in target and target.endswith('.json'), '/_delta_log/' in target
        if (record and phase == 'creating') or (version and phase == 'logging'): die()
        link(source, target, **kwargs)
        if (record and phase == 'created') or (version and phase == 'logged'): die()
    os.link = killing


if __name__ == '__main__':
    words = sys.argv[1:]
    more = dict(session=inline) if words[0] == 'inline' and words.pop(0) else {}
    phase, _, name = words.pop(0).partition(':')
    if name: NUMBER = signal.Signals[name]
    if phase in ('creating', 'created', 'logging', 'logged'): die_when_linking(phase)
    if phase == 'copying': threading.Thread(target=die_when_staged, args=(parse(words),), daemon=True).start()
    sys.exit(entry.main(words, observe=killer(phase), **more))
