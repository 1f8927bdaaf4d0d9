"A run in a thread, to be raced against others."
import threading

from chargeback_consolidation.job import consolidate


class Racer(threading.Thread):
    "A run in a thread that can be stopped, once, at the end of a phase"

    def __init__(self, world, session, stop=None):
        super().__init__(daemon=True)
        self.world, self.session, self.stop = world, session, stop
        self.arrived, self.go, self.outcome = threading.Event(), threading.Event(), None

    def observe(self, stage, seconds, facts):
        if stage == self.stop and not self.arrived.is_set():
            self.arrived.set()
            assert self.go.wait(120)

    def run(self):
        try: self.outcome = consolidate(self.world.start(self.session, self.observe)).status
        except Exception as e: self.outcome = e
        finally: self.arrived.set()

    def until_stop(self):
        self.start()
        assert self.arrived.wait(120)
        return self

    def finish(self):
        self.go.set()
        self.join(120)
        assert not self.is_alive()
        return self.outcome
