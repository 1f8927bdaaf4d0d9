"""Plays every schedule of a few actors, up to a number of switches between them and of faults.

An actor is the job's own code in a greenlet, which stops before each request to the store. A **schedule** says who
goes on, and what becomes of a request; it is kept as its **turns**, where it departs from what would happen by
itself: the actor that is on goes on, and is answered. So a schedule of no turns plays one actor after the other, and
schedules are tried in the order of their turns: what is found first is told shortest. (Bounding the switches is
Musuvathi's and Qadeer's idea: Iterative context bounding, PLDI 2007.)

Two schedules that lead to one state, by which is meant: the same store, and actors that were answered the same, go
on in the same way. So of those only the first is followed. What must hold is asked of every state, and a crash of
all actors is part of what is asked: `Judge` lets an undisturbed run and a repair take over from a copy of it.
"""
import time
from collections import deque, namedtuple
from datetime import date

from days_in_memory import best_of, rows_of
from greenlet import GreenletExit, greenlet
from memory import FAULTS, STAGE, Memory

from chargeback_consolidation import job, ledger, state
from chargeback_consolidation.ledger import MANIFEST_NAME, Gone, number_of
from chargeback_consolidation.store import StoreError

LONGEST = 3000      # requests of a schedule; one that needs more goes round in circles

Turn = namedtuple('Turn', 'step actor fate')
Turn.__doc__ = 'Before request number `step` the actor with this number is on; what becomes of its request, or None.'


class Violation(Exception):
    "What must hold does not"

    def __init__(self, words, turns=(), story=()):
        super().__init__(words)
        self.words, self.turns, self.story = words, turns, story

    def told(self):
        "The schedule, for a person"
        return '\n'.join([*self.story, f'=> {self.words}'])


class Folded(Exception):
    "The schedule is, but for requests that do not meet, another one that is played too"


class Joined(Exception):
    "From here on all is as in an earlier schedule, which was played to its end"


Point = namedtuple('Point', 'step key default running choices folded')
Point.__doc__ = """Where a schedule may depart from what happens by itself.
key: of the state. default: the actor that is on. running: True if it is in the midst of its work.
choices: (actor, fates of its request). folded: actors whose turn would come to the same as an earlier one."""


class Actor(greenlet):
    def __init__(self, name, work, hub):
        super().__init__(self.live, hub)
        self.name, self.work, self.outcome = name, work, None
        self.wants, self.left, self.history, self.made = None, None, 0, 0   # left: the step at which another went on

    def live(self):
        try: self.outcome = self.work()
        except GreenletExit: raise
        except Exception as e: self.outcome = e
        self.wants = None


class Play:
    "One schedule, from the beginning"

    def __init__(self, scenario, turns, judge, passed):
        self.passed, self.given = passed, turns
        self.turns, self.judge, self.points, self.story = {t.step: t for t in turns}, judge, [], []
        self.day, self.hub, self.now = judge.day, greenlet.getcurrent(), None
        self.last = max(self.turns, default=-1)
        STAGE.memory, STAGE.pause = judge.begin.copy(), None
        self.actors = [Actor(name, self.bound(work), self.hub) for name, work in scenario.actors]
        self.switches, self.faults, self.requests = 0, 0, []

    def bound(self, work): return lambda: work(self.day)

    def pause(self, request):
        self.now.wants = request
        return self.hub.switch()

    def heard(self, answer):
        actor = self.now
        actor.history = hash((actor.history, actor.wants, answer))

    def later(self, effect, request):
        "A request that nobody waits for any more"
        def work():
            self.pause(request._replace(words=f'at last {request.words}'))
            try: effect()
            except Exception: pass      # nobody hears it
            self.heard('')
        ghost = Actor(f'a late request of {self.now.name}', Late(work), self.hub)
        self.actors.append(ghost)
        before, self.now = self.now, ghost
        ghost.switch()
        self.now = before

    def name(self):
        actor = self.now
        actor.made += 1
        return f'{self.actors.index(actor) + 10:02x}{actor.made:06x}'.ljust(32, '0')

    def run(self):
        try: self.play()
        finally:
            STAGE.pause = self.judge.nobody
            for actor in self.actors:
                if actor: actor.throw(GreenletExit)
            STAGE.pause = None

    def play(self):
        numbers = self.judge.look().numbers
        STAGE.name, STAGE.heard, STAGE.later = self.name, self.heard, self.later
        STAGE.pause = self.pause
        for actor in self.actors:
            self.now = actor
            actor.switch()
        step, current = 0, None
        while True:
            ready = [i for i, a in enumerate(self.actors) if a.wants]
            if not ready: break
            if step > LONGEST: raise self.violation('this goes round in circles')
            default = current if current in ready else ready[0]
            turn = self.turns.get(step) or Turn(step, default, None)
            if step > self.last: self.points.append(self.point(step, current, default, ready))
            if turn.actor != default and current in ready:
                self.switches += 1
                self.actors[current].left = step
            if turn.fate: self.faults += 1
            if not self.matters(turn.actor): raise Folded
            self.actors[turn.actor].left = None
            numbers = self.go(turn, numbers)
            step, current = step + 1, turn.actor
        for actor in self.actors: self.check_outcome(actor)
        STAGE.pause = None
        if not self.faults and self.day.delta: self.check_told()

    def point(self, step, current, default, ready):
        key, used = self.key(current), (self.switches, self.faults)
        if any(s <= used[0] and f <= used[1] for s, f in self.passed.get(key, ())): raise Joined
        choices = [(i, self.fates(i)) for i in ready if self.matters(i)]
        return Point(step, key, default, current in ready, choices, len(ready) - len(choices))

    def key(self, current): return hash((STAGE.memory.mark, tuple(a.history for a in self.actors), current))

    def fates(self, i):
        if isinstance(self.actors[i].work, Late): return (None,)
        return None, *FAULTS[self.actors[i].wants.changes]

    def matters(self, i):
        """False if actor `i`, which others have interrupted, would do now what it might as well have done before:
        nothing that they did meets its request"""
        actor = self.actors[i]
        return actor.left is None or any(r.meets(actor.wants) for r in self.requests[actor.left:])

    def go(self, turn, numbers):
        "One request"
        actor, mark = self.actors[turn.actor], STAGE.memory.mark
        self.tell(actor, turn)
        self.requests.append(actor.wants)
        self.now = actor
        actor.switch(turn.fate)
        if STAGE.memory.mark == mark: return numbers
        STAGE.pause = None
        seen = self.judge.look()
        STAGE.pause = self.pause
        if seen.problem: raise self.violation(seen.problem)
        for reader, number in numbers.items():
            if seen.numbers.get(reader, 0) >= number: continue
            raise self.violation(f'{reader} saw commit {number}, and then {seen.numbers.get(reader, 0)}')
        return seen.numbers

    def tell(self, actor, turn):
        fate = f' ({turn.fate})' if turn.fate else ''
        self.story.append((actor.name, f'{actor.wants}{fate}', actor.wants.changes or bool(fate)))

    def check_outcome(self, actor):
        end = actor.outcome
        if isinstance(end, Violation): raise self.violation(end.words)
        allowed = (job.Conflict, state.NoData, Gone) + ((StoreError, OSError) if self.faults else ())
        if isinstance(end, Exception) and not isinstance(end, allowed):
            raise self.violation(f'{actor.name} ended with {type(end).__name__}: {end}')

    def check_told(self):
        "Once all are done the log has the last commit of each day"
        told, _ = self.day.log()
        for own, head in ledger.heads(self.day.ledger):
            if told.get(head.day) == head.number: continue
            raise self.violation(f'the log does not know the commit of {head.day}')

    def violation(self, words):
        told, at = [], 0
        while at < len(self.story):
            name, end = self.story[at][0], at
            while end < len(self.story) and self.story[end][0] == name: end += 1
            deeds = [words for _, words, changes in self.story[at:end] if changes]
            if self.story[end - 1][1] not in deeds[-1:]: deeds.append(self.story[end - 1][1])
            told.append(f'{name}: ' + '; '.join(deeds))
            at = end
        return Violation(words, tuple(self.turns.values()), told)


class Late:
    "The work of one late request"

    def __init__(self, work): self.work = work
    def __call__(self): return self.work()


Seen = namedtuple('Seen', 'numbers problem')
Seen.__doc__ = "numbers: {reader: number of the commit that it sees}. problem: what does not hold, or ''."


def expected(day, number):
    "The rows of a commit, by the landing files that it says it was made from"
    commit = day.ledger.load(number) if number else None
    landed = day.landed()
    taken = [name_of(t.path) for t in day.ledger.taken(commit) if t.commit]
    return sorted(best_of(row for name in taken for row in landed[name]).values())


class Judge:
    "What must hold in every state; asked once of each state of the store"

    def __init__(self, day, begin):
        self.day, self.begin, self.known = day, begin, {}

    def nobody(self, *args): raise GreenletExit

    def look(self):
        "What a reader sees now, and what is wrong"
        mark = STAGE.memory.mark
        if mark not in self.known:
            try: self.known[mark] = Seen(self.ask(), '')
            except Violation as e: self.known[mark] = Seen({}, e.words)
            except Exception as e: self.known[mark] = Seen({}, f'{type(e).__name__}: {e}')
        return self.known[mark]

    def ask(self):
        "The number of the commit that each reader sees; `Violation`"
        numbers = dict(self.check_log(), **{'a reader': self.check_reader()})
        self.check_kept()
        memory, name = STAGE.memory, STAGE.name
        STAGE.memory, STAGE.name = memory.copy(), iter_names()
        try: self.check_recovery()
        finally: STAGE.memory, STAGE.name = memory, name
        return numbers

    def check_reader(self):
        "Who asks the ledger sees the rows of one commit, each once; who lists the folder no key less"
        try: number, rows = self.day.read()
        except Exception as e: raise Violation(f'a reader gets {type(e).__name__}: {e}') from None
        if sorted(rows) != expected(self.day, number):
            raise Violation(f'a reader of commit {number} sees other rows than it has')
        if {r.key for r in rows} - self.day.listed(): raise Violation('who lists the folder misses keys')
        return number

    def check_log(self):
        "Who reads the Delta log sees of each day the files of one commit, and all of them are there"
        numbers, files = self.day.log()
        for day, number in numbers.items():
            own = ledger.Ledger(self.day.ledger.store, self.day.output, date.fromisoformat(day))
            named = {f.path for f in own.load(number).files}
            folder = own.partition[len(self.day.output) + 1:]
            if {path for path in files if path.startswith(folder)} != named:
                raise Violation(f'the log does not have the files of commit {number} of {day}')
        lost = [path for path in files if f'{self.day.output}/{path}' not in STAGE.memory.files]
        if lost: raise Violation(f'the log names {name_of(lost[0])}, which is not there')
        return {f'the log of {day}': number for day, number in numbers.items()}

    def check_kept(self):
        "Each file of the last commit is there or staged; so are the origins of its rows, and its manifest"
        own, memory = self.day.ledger, STAGE.memory
        head = own.head()
        if head is None: return
        staged = {path for folder in (own.partition, own.quarantine) for path, _ in own.store.staged(folder)}
        for file in head.files + head.quarantine:
            path = own.path(file.path)
            if path not in memory.files and path not in staged: raise Violation(f'{name_of(path)} is lost')
        sidecars = [f.lineage for f in head.files] + [head.manifest] * bool(head.manifest)
        for path in map(own.path, sidecars):
            if path not in memory.files: raise Violation(f'{name_of(path)} is lost')
        commits = [own.load(number) for number in own.numbers()]
        for before, after in zip(commits, commits[1:], strict=False):
            if not before.held or after.kind != 'consolidate': continue
            raise Violation(f'commit {before.number} did not hold the day')

    def check_recovery(self):
        "Were all killed now: one undisturbed run makes the day whole, and after a repair nothing lies about"
        head = self.day.ledger.head()
        if head and head.held: self.day.release()
        self.day.land('zz', ('late', 1), ('k1', 0))
        try: end = self.day.run('eeeeeeee')
        except Exception as e: end = f'{type(e).__name__}: {e}'
        if end != 'done': raise Violation(f'the next run ends with {end}')
        _, rows = self.day.read()
        whole = sorted(best_of(row for rows in self.day.landed().values() for row in rows).values())
        if sorted(rows) != whole: raise Violation('the next run does not make the day whole')
        self.day.repair('ffffffff')
        head = self.day.ledger.head()
        listed = sorted(row for path in self.day.visible() for row in rows_of(STAGE.memory.files[path]))
        if listed != whole and not head.keep_hours: raise Violation('after a repair the folder is not the day')
        if self.day.delta and self.check_log()[f'the log of {head.day}'] != head.number:
            raise Violation('after a repair the log is not the ledger')
        litter = self.litter()
        if litter: raise Violation(f'a repair leaves {", ".join(sorted(litter))}')

    def litter(self):
        "What lies about that no commit names"
        own, memory = self.day.ledger, STAGE.memory
        commits = [own.load(number) for number in own.numbers()]
        kept = commits if commits[-1].keep_hours else commits[-1:]
        named = {own.path(f.path) for c in kept for f in c.files + c.quarantine}
        named |= {own.path(f.lineage) for c in kept for f in c.files} | {own.path(c.manifest) for c in commits}

        def ours(path):
            if 'day=' in path and own.partition[-6:] not in path: return False      # of another day
            return '.staged' in path or number_of(path) is not None or MANIFEST_NAME.match(name_of(path))
        uploads = {path for path, _ in memory.uploads.values()}
        return {name_of(path) for path in uploads | set(memory.files) - named if ours(path)}


def name_of(path): return path.rsplit('/', 1)[-1]


def iter_names():
    made = iter(range(1, 1 << 20))
    return lambda: f'ff{next(made):06x}'.ljust(32, '0')


Scenario = namedtuple('Scenario', 'name begin actors')
Scenario.__doc__ = 'begin: function (day) that makes the first state. actors: (name, function of a day) each.'

Explored = namedtuple('Explored', 'schedules folded states checked complete left violation seconds')
Explored.__doc__ = """schedules: played, all distinct. folded: not played, as one that was played comes to the same.
states: of actors and store, met. checked: states of the store in which all that must hold was asked.
complete: all schedules of so many turns were played. left: schedules known and not played, for want of time.
violation: the first one, or None."""


def first_state(scenario, day):
    "The memory as the actors find it"
    STAGE.pause, STAGE.name, STAGE.memory = None, iter_names(), Memory()
    scenario.begin(day)
    return STAGE.memory.copy()


class Search:
    "A search through the schedules of a scenario"

    def __init__(self, scenario, day, turns, faults):
        self.scenario, self.day, self.turns, self.faults = scenario, day, turns, faults
        self.judge = Judge(day, first_state(scenario, day))
        self.waiting, self.seen, self.passed = deque([()]), {}, {}
        self.played, self.folded, self.violation = 0, 0, None

    def step(self):
        "Play the next schedule"
        play = Play(self.scenario, self.waiting.popleft(), self.judge, self.passed)
        try: play.run()
        except Folded: self.folded += 1
        except Joined: self.played += 1
        except Violation as e: self.violation = e
        else: self.played += 1
        for point in play.points: self.branch(play, point)

    def branch(self, play, point):
        "Put the schedules in line that depart at this point"
        used = play.switches, play.faults
        self.passed.setdefault(point.key, []).append(used)
        self.folded += point.folded
        for actor, fates in point.choices:
            for fate in fates:
                if (actor, fate) == (point.default, None): continue
                after = used[0] + (point.running and actor != point.default), used[1] + bool(fate)
                if sum(after) > self.turns or after[1] > self.faults: continue
                if self.known(hash((point.key, actor, fate)), after): self.folded += 1
                else: self.waiting.append((*play.given, Turn(point.step, actor, fate)))

    def known(self, at, used):
        "True if this was done in this state before, with as much left to do"
        before = self.seen.setdefault(at, [])
        if any(s <= used[0] and f <= used[1] for s, f in before): return True
        before.append(used)
        return False


def explore(scenario, day, turns=2, faults=0, seconds=60, most=None, watch=lambda search: None):
    """Play the schedules of a scenario, those with the fewest turns first: `Explored`.
    day: of `in_memory`. turns: switches and faults together, at most. seconds, most: to spend, schedules to play."""
    began = time.monotonic()
    search = Search(scenario, day, turns, faults)
    while search.waiting and time.monotonic() - began < seconds and (most is None or search.played < most):
        search.step()
        if search.violation: break
        watch(search)
    complete = len(search.waiting[0]) - 1 if search.waiting else turns
    return Explored(search.played, search.folded, len(search.passed), len(search.judge.known), complete,
                    len(search.waiting), search.violation, time.monotonic() - began)
