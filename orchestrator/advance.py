"""The heart: lock instances, read their inbox, step them, save everything in one transaction.

Theory of operation (statement by statement; the order matters).

1. A page of the oldest ready inbox rows of each tenant names up to 100 instances, of the tenants in turn. Lock those that are
   free (FOR NO KEY UPDATE SKIP LOCKED).
2. Read their inbox in a NEW statement: its snapshot must be younger than the lock, or rows would be seen that
   the previous holder consumed before it let go.
   So are the configuration values that their charts name, where any does, in one statement.
   Where the inbox is short, the first two are one statement on PostgreSQL, which finds such rows out by the instance's sequence
   (`common.store.ready`).
3. Decide each row, purely. Whatever one instance does wrong is that instance's incident.
4. Save, set-based, guarded by the sequence that was read; delete exactly the rows that were stepped; commit.
5. Ring for new tasks, or call the runners that they were leased to (`common.queues.offers`), then look at what comes
   behind in the inbox, of each tenant by itself, and again from the beginning,
   always, until a whole sweep finds nothing to lock. A sweep that skipped a locked instance may sleep: its holder takes this fifth step too, and
   if it dies its rows are free for the next look.

Of a backlog on PostgreSQL the fourth step is another thread's (`behind.py`), and the next batch's first three are done meanwhile. The last look of
a sweep comes when everything is saved.

A batch that the database refuses is rolled back and each of its instances stepped alone; one that is refused
alone gets the incident `engine.rejected` (`alone.py`). While a process of this duty has died within the last minute, it is noted of instances
with rows older than that death, before they are stepped, that they may be at fault for the next one (`suspects.py`).

Who is chosen, and when a sweep is over, is told in `laps.py`; the transaction of steps 2 to 4 in `locked.py`, a single instance's way
through its rows in `stepping.py`.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import replace
from datetime import datetime

import structlog
from sqlalchemy import Connection

from common import faults
from common.courtesy import Portions
from common.db import is_trouble
from common.ids import InstanceId
from common.queues.answers import Answer
from common.store import inbox
from common.store.inbox import Page
from common.store.ready import Ready, lock_and_read
from orchestrator.advancing import Advancing
from orchestrator.alone import each_alone
from orchestrator.answers import store
from orchestrator.batch import LostRace
from orchestrator.behind import PATIENCE, WORTH, Behind
from orchestrator.laps import BATCH, Chosen, Sweep
from orchestrator.locked import Unsaved, advance_locked, lock_free, save_stepped, step_locked
from orchestrator.passed import NOTHING, Pass, in_all
from orchestrator.suspects import step_suspects

log = structlog.get_logger("signalbox.orchestrator")

CROWDED_SECONDS = 0.25
"""For so long after an inbox was too long for one look, turns are chosen."""
FEW = 2
ANSWERS = Portions(250, 64, 20)
"""Answers that are stepped in one pass."""


def advance_ready(advancing: Advancing, *, until: float, sweep: Sweep | None = None) -> Pass:
    """Sweep the inbox until a whole sweep finds nothing to lock or `until` (monotonic seconds) is over; what was done in all.

    A sweep goes through the inbox page by page, of all tenants at once, and steps each instance once, at most 200 of its
    rows: a giant inbox, an instance that somebody else holds, or a flood of one tenant's hides nobody behind it. `more`
    of the result tells that the time ran out before the work did; the last batch may still be being saved then, and is told of
    by the next call, as what it was lost by is.
    """
    sweep = sweep or Sweep()
    sweep.begun_before()
    done: list[Pass] = []
    try:
        while True:
            last = advance_pass(advancing, sweep, behind=advancing.behind)
            done.append(last)
            if last.more and time.monotonic() <= until:
                continue
            if last.more:  # who drains next need not wait until this is saved
                return _in_all([*advancing.behind.saved(), *done], more=True)
            # Who was locked until now was passed by: as their holder we look again.
            saved = advancing.behind.join()
            done[:0] = saved
            if not saved or time.monotonic() > until:
                return _in_all(done, more=bool(saved))
    except BaseException:
        advancing.behind.abandon()
        raise


def save_all(advancing: Advancing) -> Pass:
    """Wait until the last batch of a drain that is not to go on is saved; what was saved. Raises what it was lost by."""
    return _in_all([*advancing.behind.join(), NOTHING], more=False)


def _in_all(done: Sequence[Pass], *, more: bool) -> Pass:
    return Pass(
        sum(one.steps for one in done),
        sum(one.instances for one in done if not one.is_behind),
        sum(one.tasks for one in done),
        more,
        starts_items=any(one.starts_items for one in done),
        rest=done[-1].rest,
    )


def advance_pass(advancing: Advancing, sweep: Sweep, *, behind: Behind | None = None) -> Pass:
    """Step one batch of ready instances that have not had their turn in this sweep, and publish what changed.

    Where `behind` may save it, what is told of it is who was locked and who is left; the rest is `behind`'s to tell.
    """
    answers = advancing.answers.take(sweep.portion(ANSWERS))
    sweep.note_answers(Counter(answer.end.tenant_id for answer in answers))
    done = _settled(advancing, lambda: _pass_with(advancing, sweep, answers, behind), answers)
    return replace(done, more=True) if advancing.answers.are_any else done


def _settled(advancing: Advancing, step: Callable[[], Pass], answers: Sequence[Answer]) -> Pass:
    """Do a pass, and what follows its commit."""
    try:
        done = step()
    except LostRace:
        if not answers:
            raise
        done = NOTHING  # some task has ended otherwise: to store the answers tells them apart
    if done.is_behind:
        return done
    if done.changed:
        advancing.publish(done.changed)
    if done.due_in is not None:
        advancing.on_due(done.due_in)
    left = [answer for answer in answers if answer.end.claim not in done.answered]
    if left:
        store(advancing.database, left)
        done = replace(done, more=True)
    return done


def _pass_with(advancing: Advancing, sweep: Sweep, answers: Sequence[Answer], behind: Behind | None) -> Pass:
    death = advancing.last_death()
    if death is not None:
        if behind is not None:
            behind.is_free(within=None)
        return _careful_pass(advancing, sweep, death)
    if not advancing.database.is_sqlite:
        few = _pass_over_all(advancing, sweep, answers) if sweep.is_over_few else None
        return few or _pass(advancing, sweep, lambda tx: sweep.choose(_read_page(tx, sweep)), answers, behind)
    # The one writer's turn is not taken to look, and not at all where there is nothing to do.
    page = _peek(advancing, sweep)
    if not page.rows and not answers:
        return Pass(more=sweep.note(Chosen(), found=False))
    chosen = sweep.choose(page)
    if chosen.rest and not answers:
        return Pass(rest=chosen.rest)
    return _pass(advancing, sweep, lambda _tx: chosen, answers)


def _read_page(tx: Connection, sweep: Sweep) -> Page:
    return inbox.page_ready(tx, sweep.passed, turn_after=sweep.turn_after, room=sweep.page_room)


def _peek(advancing: Advancing, sweep: Sweep) -> Page:
    with advancing.database.reading() as tx:
        return _read_page(tx, sweep)


def _pass(
    advancing: Advancing,
    sweep: Sweep,
    choose: Callable[[Connection], Chosen],
    answers: Sequence[Answer],
    behind: Behind | None = None,
) -> Pass:
    """Step one batch and who has `answers`, and take note of it."""
    chosen = Chosen()

    def choose_here(tx: Connection) -> list[InstanceId]:
        nonlocal chosen
        chosen = choose(tx)
        if chosen.is_crowd:
            advancing.on_crowd()
        return chosen.ids

    def lock(tx: Connection) -> Ready:
        return lock_free(tx, sorted({*choose_here(tx), *_answered(answers)}))

    # Beside a flood those who have few wait for no more than their own batch: nobody else's is stepped while theirs is saved.
    done = _stepped(advancing, lock, answers, behind=behind, is_shared=lambda: sweep.is_shared)
    if chosen.rest:
        return replace(done, more=False, rest=chosen.rest)
    # The time of this pass may have been over before all that were locked had their turn: they are next.
    return replace(done, more=sweep.note(chosen, found=done.instances > 0, left=done.left))


def _pass_over_all(advancing: Advancing, sweep: Sweep, answers: Sequence[Answer]) -> Pass | None:
    """Step everything that is ready, if that is little, and who has `answers`: then nobody's turn has to be chosen. Else None."""
    if sweep.looks_first and not answers and not _has_ready(advancing):
        sweep.looks_first = False
        return NOTHING
    ready = Ready(is_all=False)
    told = set(_answered(answers))

    def lock(tx: Connection) -> Ready:
        nonlocal ready
        ready = lock_and_read(tx, portion=BATCH.beside, also=sorted(told))
        if ready.locked:
            # Answers' tenants are known already; who they are stepped beside, is not.
            sweep.note_all(Counter(held.tenant_id for held in ready.locked if held.id not in told))
            faults.hit("after_lock")
        return ready

    done = _stepped(advancing, lock, answers)
    if not ready.is_all:
        sweep.crowded_until = time.monotonic() + CROWDED_SECONDS
        return None
    sweep.looks_first = 0 < done.instances <= FEW
    return replace(done, more=done.instances > 0)


def _has_ready(advancing: Advancing) -> bool:
    with advancing.database.each_alone() as tx:
        return inbox.has_ready(tx)


def _answered(answers: Sequence[Answer]) -> list[InstanceId]:
    return sorted({answer.end.instance_id for answer in answers})


def _stepped(
    advancing: Advancing,
    lock: Callable[[Connection], Ready],
    answers: Sequence[Answer] = (),
    *,
    behind: Behind | None = None,
    is_shared: Callable[[], bool] = lambda: False,
) -> Pass:
    """Step what `lock` locks and reads, in one transaction; each alone where that fails for a reason that does not pass.

    A batch that is worth it is saved by `behind`, where there is one, unless it `is_shared` by those who have few with a flood.
    Raises `LostRace`, where nothing is stepped: with `answers`, a task of theirs may have ended otherwise meanwhile.
    """
    if behind is not None:
        done = _stepped_ahead(advancing, lock, answers, behind, is_shared)
        if done is not None:
            return done
    ids: list[InstanceId] = []

    def step(tx: Connection) -> Pass:
        ids.clear()
        ready = lock(tx)
        ids.extend(held.id for held in ready.locked)
        if not ready.locked:
            return NOTHING
        return advance_locked(advancing, tx, ready.locked, ready.rows, answers, light=advancing.light)

    try:
        done = advancing.database.run(step)
    except Exception as error:
        if is_trouble(error) or isinstance(error, LostRace) or not ids:
            raise
        log.warning("batch.refused", error=type(error).__name__)
        return each_alone(advancing, ids)
    advancing.note_committed(done)
    return done


def _stepped_ahead(
    advancing: Advancing,
    lock: Callable[[Connection], Ready],
    answers: Sequence[Answer],
    behind: Behind,
    is_shared: Callable[[], bool],
) -> Pass | None:
    """Step what `lock` locks while `behind` may still save the batch before, and have it saved there if it is worth it.

    None where nothing came of it, for whatever reason: then it is stepped, and split up if need be, as if there were no `behind`.
    """
    try:
        with ExitStack() as opened:
            tx = opened.enter_context(advancing.database.transaction())
            ready = lock(tx)
            if not ready.locked:
                return NOTHING
            unsaved = step_locked(advancing, tx, ready.locked, ready.rows, answers, light=advancing.light)
            if len(unsaved.stepped) < WORTH or is_shared():
                done = save_stepped(advancing, tx, unsaved)
            elif behind.is_free(within=PATIENCE):
                handed = opened.pop_all()
                done = None
            else:
                raise TimeoutError("the batch before takes long, and may wait for a lock of this one")
    except Exception as error:  # noqa: BLE001 - told again by who steps it as ever, if it is still so
        log.info("batch.begun_again", error=type(error).__name__)
        behind.is_free(within=None)
        return None
    if done is not None:
        advancing.note_committed(done)
        return done
    behind.save(lambda: _settled(advancing, lambda: _saved(advancing, handed, tx, unsaved, answers), answers))
    return Pass(instances=len(unsaved.locked), left=unsaved.left, is_behind=True)


def _saved(
    advancing: Advancing, opened: ExitStack, tx: Connection, unsaved: Unsaved, answers: Sequence[Answer]
) -> Pass:
    """Save a batch in the transaction that was `opened` for it; step it again where it is not taken."""
    try:
        with opened:
            done = save_stepped(advancing, tx, unsaved)
    except LostRace:
        if answers:
            raise
        return _stepped(advancing, lambda tx: lock_free(tx, unsaved.locked))
    except Exception as error:  # noqa: BLE001 - as above
        log.info("batch.begun_again", error=type(error).__name__)
        return _stepped(advancing, lambda tx: lock_free(tx, unsaved.locked), answers)
    advancing.note_committed(done)
    return done


def _careful_pass(advancing: Advancing, sweep: Sweep, death: datetime) -> Pass:
    """A pass within a minute of an unexplained death: with care for instances that the dead process may have held (`suspects.py`).

    Suspect is who has a row from before the death; a backlog that nobody died on strikes nobody.
    """
    page = _peek(advancing, sweep)
    chosen = sweep.choose(page)
    if chosen.rest:
        return Pass(rest=chosen.rest)
    if chosen.is_crowd:
        advancing.on_crowd()
    suspected = {row.instance_id for row in page.rows if row.accepted_at <= death}
    clear = [one for one in chosen.ids if one not in suspected]
    done = _stepped(advancing, lambda tx: lock_free(tx, clear)) if clear else NOTHING
    careful = step_suspects(advancing, [one for one in chosen.ids if one in suspected])
    both = in_all([done, careful])
    return replace(both, more=sweep.note(chosen, found=both.instances > 0, left=both.left))
