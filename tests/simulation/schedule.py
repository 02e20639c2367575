"""Time, writers and faults of a simulated world: all of them follow from one seed.

Every writer is a thread, and one of them runs at a time. At each operation on storage and each look at the clock the
running one comes to `step`: there time goes on, a fault may strike, and the next writer is drawn, perhaps the same.
"""

import contextlib
import heapq
import random
import threading
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from tlearn.errors import TlearnError

SECOND = 10**6
"""In microseconds, the unit of simulated time."""
HOUR = 3600 * SECOND

MAX_STEPS = 5_000
"""Of a world; more are taken for a writer that does not come to an end."""


class Crashed(BaseException):
    """The process that runs this thread is dead: nothing that it does from here on has an effect."""


class CrashedNow(Crashed):
    """It died in this very operation: what it asked of a store may still be done."""


@dataclass(frozen=True, slots=True)
class Rates:
    """How probable is what, at one step."""

    switch: float = 0.2
    """Another writer runs next."""
    crash: float = 0.0
    pause: float = 0.0
    """Of minutes or hours, in which a lease grows old."""
    power_loss: float = 0.0
    edit: float = 0.0
    """Somebody changes, removes or adds a file of the input."""
    failure: float = 0.0
    """The object store answers with an error, or not at all, or too late."""
    lag: float = 0.0
    """A change of an object store is listed later."""


@dataclass
class Timer:
    due: int
    period: int
    function: Callable[[], object]


class _IsHeld(BaseException):
    """What a timer would have to wait for: its writer goes on first."""


class Lock:
    """A lock between a writer and its timers, which are one thread here."""

    def __init__(self) -> None:
        self.is_held = False

    def __enter__(self) -> None:
        if self.is_held:
            raise _IsHeld
        self.is_held = True

    def __exit__(self, *_: object) -> None:
        self.is_held = False


@dataclass(eq=False)
class Writer:
    """A person's command, started again after every crash; its process has another id then."""

    name: str
    host: str
    pid: int
    wakes_at: int = 0
    is_dead: bool = False
    is_done: bool = False
    suspended: int = 0
    """So long its host was asleep, in which the monotonic clock stands still."""
    timers: list[Timer] = field(default_factory=list)
    in_timer: bool = False
    crashes: int = 0
    baton: threading.Lock = field(default_factory=threading.Lock)


@dataclass
class Step:
    """One line of the trace."""

    time: int
    writer: str
    operation: str
    place: str
    outcome: str = ""

    def __str__(self) -> str:
        seconds, micros = divmod(self.time, SECOND)
        clock = f"{seconds // 3600:4}:{seconds // 60 % 60:02}:{seconds % 60:02}.{micros // 1000:03}"
        return f"{clock}  {self.writer:5}  {self.operation:14} {self.place}  {self.outcome}".rstrip()


class Schedule:
    """Who runs when. `current` is the writer that runs."""

    def __init__(self, seed: int, rates: Rates):
        self.random = random.Random(seed)
        self.rates = rates
        self.now = 0
        self.trace: list[Step] = []
        self.violation: str | None = None
        self.writers: list[Writer] = []
        self.pids = 100
        self.boots = 0
        self.max_crashes = 3
        self.on_edit: Callable[[], None] = lambda: None
        self.on_power_loss: Callable[[], None] = lambda: None
        self.current = self._nobody = Writer("world", "-", 0)
        self._is_stopping = False
        self._events: list[tuple[int, int, Callable[[], None]]] = []
        self._num_events = 0
        self._all_done = threading.Lock()

    # What happens to the world

    def later(self, delay: int, function: Callable[[], None]) -> None:
        """Let something happen after so many microseconds, whoever runs then."""
        self._num_events += 1
        heapq.heappush(self._events, (self.now + delay, self._num_events, function))

    def advance(self, time: int) -> None:
        while self._events and self._events[0][0] <= time:
            due, _, function = heapq.heappop(self._events)
            self.now = max(self.now, due)
            function()
        self.now = max(self.now, time)

    def note(self, operation: str, place: str = "", outcome: str = "", by: str | None = None) -> Step:
        step = Step(self.now, self.current.name if by is None else by, operation, place, outcome)
        self.trace.append(step)
        return step

    def violate(self, sentence: str) -> None:
        """The world is at its end: something has happened that must not."""
        if self.violation is None:
            self.violation = sentence
            self.note("VIOLATION", outcome=sentence)
        self._stop()

    def _stop(self) -> None:
        self._is_stopping = True
        for writer in self.writers:
            writer.is_dead = True
            writer.wakes_at = 0

    # What a writer calls

    def step(self, operation: str, place: str = "") -> Step:
        """What every operation begins with; returns its line of the trace. Raises Crashed."""
        writer = self.current
        if writer.is_dead:
            raise Crashed
        self.advance(self.now + 1 + int(self.random.random() * 20_000))
        self._strike(writer, operation, place)
        self._give_way(writer)
        if writer.timers and not writer.in_timer:
            self._run_timers(writer)
        return self.note(operation, place)

    def _strike(self, writer: Writer, operation: str, place: str) -> None:
        if len(self.trace) > MAX_STEPS:
            self.violate(f"after {MAX_STEPS} operations a writer is not at its end")
        rates, fate = self.rates, self.random.random()
        if fate < rates.crash:
            if writer.crashes < self.max_crashes:
                self.note("crash", outcome=f"before {operation} {place}")
                self.kill(writer)
                raise CrashedNow
        elif fate < rates.crash + rates.pause:
            self._pause(writer)
        elif fate < rates.crash + rates.pause + rates.edit:
            self.on_edit()
        elif fate < rates.crash + rates.pause + rates.edit + rates.power_loss:
            self._lose_power()

    def kill(self, writer: Writer) -> None:
        writer.is_dead = True
        writer.crashes += 1
        writer.wakes_at = self.now

    def _pause(self, writer: Writer) -> None:
        duration = int(self.random.choice([30 * SECOND, 90 * SECOND, HOUR, 5 * HOUR]) * (0.5 + self.random.random()))
        is_asleep = self.random.random() < 0.3
        self.note("pause", outcome=f"{duration // SECOND} seconds{' of sleep' if is_asleep else ''}")
        writer.wakes_at = self.now + duration
        writer.suspended += duration * is_asleep
        for timer in writer.timers:  # which of its threads goes on first is not said
            timer.due = max(timer.due, writer.wakes_at + int(self.random.random() * 300_000))

    def _lose_power(self) -> None:
        if self.boots >= 2:
            return
        self.note("power loss")
        self.boots += 1
        for writer in self.writers:
            if not writer.is_done:
                self.kill(writer)
        self.on_power_loss()

    def _run_timers(self, writer: Writer) -> None:
        for timer in list(writer.timers):
            if timer.due <= self.now:
                writer.in_timer = True
                timer.due = self.now + timer.period
                try:
                    timer.function()
                except _IsHeld:
                    timer.due = self.now + SECOND // 20
                finally:
                    writer.in_timer = False

    # tlearn.storage.clock

    def monotonic(self) -> float:
        return (self.now - self.current.suspended) / SECOND

    def sleep(self, seconds: float) -> None:
        writer, until = self.current, self.now + int(seconds * SECOND)
        self.step("sleep", outcome_of(seconds))
        while self.now < until:
            dues = [] if writer.in_timer else [timer.due for timer in writer.timers]
            writer.wakes_at = max(writer.wakes_at, min([until, *dues]))
            self._give_way(writer)
            if not writer.in_timer:
                self._run_timers(writer)

    @contextlib.contextmanager
    def every(self, seconds: float, function: Callable[[], object]) -> Iterator[None]:
        writer, period = self.current, int(seconds * SECOND)
        timer = Timer(self.now + period, period, function)
        writer.timers.append(timer)
        try:
            yield
        finally:
            writer.timers.remove(timer)

    # Writers

    def run(self, commands: dict[Writer, Callable[[], object]]) -> None:
        """Run the command of every writer until it has ended well; again after a crash or an error."""
        self.writers = list(commands)
        threads = [threading.Thread(target=self._live, args=item, daemon=True) for item in commands.items()]
        self._all_done.acquire()
        for writer, thread in zip(self.writers, threads, strict=True):
            writer.baton.acquire()
            thread.start()
        self.current = self._chosen(None)
        self.current.baton.release()
        self._all_done.acquire()
        for thread in threads:
            thread.join()
        self._all_done.release()
        self.current = self._nobody

    def alone(self, writer: Writer, command: Callable[[], object]) -> bool:
        """Run one command, without faults, to its end; whether that is a good one."""
        self.writers, self.rates = [writer], Rates(switch=0.0)
        self.current, writer.wakes_at = writer, self.now
        try:
            return self._attempt(writer, command)
        finally:
            self.current = self._nobody

    def _live(self, writer: Writer, command: Callable[[], object]) -> None:
        writer.baton.acquire()
        try:
            with contextlib.suppress(Crashed):
                while not self._is_stopping and not self._attempt(writer, command):
                    self._start_again(writer)
        finally:
            writer.is_done = True
            if all(writer.is_done for writer in self.writers):
                self._all_done.release()
            else:
                self.current = self._chosen(None)
                self.current.baton.release()

    def _attempt(self, writer: Writer, command: Callable[[], object]) -> bool:
        """Whether it ended well."""
        try:
            self.note("start", outcome=f"process {writer.pid} on host {writer.host}")
            command()
        except Crashed:
            return False
        except TlearnError as error:
            if not writer.is_dead:  # its last words are of the time after
                self.note("exit", str(error.code), str(error))
            return False
        except Exception:
            if not writer.is_dead:
                self.violate(f"a command ends with a traceback:\n{traceback.format_exc()}")
            return False
        self.note("exit", "0")
        return not writer.is_dead

    def _start_again(self, writer: Writer) -> None:
        """As another process, perhaps on another machine, seconds or minutes later."""
        writer.timers.clear()
        self.pids += 1
        writer.pid = self.pids
        if self.random.random() < 0.3:
            writer.host = self.random.choice("ab")
        writer.wakes_at = self.now + int(self.random.choice([1, 20, 60, 300]) * (0.5 + self.random.random()) * SECOND)
        with contextlib.suppress(Crashed):
            self._give_way(writer)
        writer.is_dead = self._is_stopping

    def is_running(self, host: str, pid: int) -> bool:
        return any((w.host, w.pid, w.is_dead or w.is_done) == (host, pid, False) for w in self.writers)

    def _chosen(self, running: Writer | None) -> Writer:
        ready = [writer for writer in self.writers if not writer.is_done and writer.wakes_at <= self.now]
        if not ready:
            self.advance(min(writer.wakes_at for writer in self.writers if not writer.is_done))
            return self._chosen(running)
        if running is not None and running.wakes_at <= self.now and self.random.random() >= self.rates.switch:
            return running
        return ready[int(self.random.random() * len(ready))]

    def _give_way(self, writer: Writer) -> None:
        chosen = self._chosen(writer)
        if chosen is not writer:
            self.current = chosen
            chosen.baton.release()
            writer.baton.acquire()
        if writer.is_dead:
            raise Crashed


def outcome_of(seconds: float) -> str:
    return f"{seconds:g} seconds"
