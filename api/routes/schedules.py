"""Schedules: when instances start by themselves."""

from __future__ import annotations

from api.auth import Permission
from api.operations import Answer, Call, Follow, Routes, Shape
from api.pages import Paging
from api.reading import missing
from api.schemas.answers import Instance, Schedule, SchedulePage, ScheduleRuns
from api.schemas.queries import NextRunsQuery, ScheduleQuery
from api.schemas.requests import EmptyBody, ResumeScheduleBody, ScheduleBody
from api.shapes import instance_json, run_json, schedule_json, schedule_summary
from common.commands.schedules import (
    ScheduleRequest,
    create_schedule,
    delete_schedule,
    fire_schedule,
    next_runs,
    pause_schedule,
    replace_schedule,
    resume_schedule,
)
from common.errors import Invalid
from common.schedule import ScheduleKind
from common.store import listing
from common.store import schedules as store
from common.store.schedules import ScheduleFilter

routes = Routes("schedules")

SHOWN = 5  # runs to come beside a schedule

_EXAMPLE = {"definitionKey": "hello-workflow", "cron": "0 9 * * 1-5", "timezone": "Europe/Berlin"}


@routes.get("/schedules", answers={200: Shape("newest first", SchedulePage)})
def list_schedules(call: Call, query: ScheduleQuery) -> Answer:
    """List schedules."""
    paging = Paging(call, query)
    wanted = ScheduleFilter(query.definition_key, query.paused)
    page = store.list_schedules(
        call.tx, call.tenant_id, wanted, before=paging.after_text(), limit=paging.limit
    )
    return Answer(paging.answer(page.items, schedule_summary, [page.items[-1].id] if page.has_more else None))


@routes.post(
    "/schedules",
    permission=Permission.DEFINE,
    answers={201: Shape("the schedule, with its next runs", Schedule)},
    example=_EXAMPLE,
)
def add_schedule(call: Call, body: ScheduleBody) -> Answer:
    """Create a schedule.

    Each run starts one instance of the definition's active version, as the actor `schedule:NAME`. Without an `input`, that
    of the instance is `{"scheduledAt", "firedAt", "scheduleId"}`.
    """
    schedule = create_schedule(call.tx, call.tenant_id, _request(body), actor=call.actor, limits=call.limits)
    return Answer(_json(schedule), 201, {"Location": f"/api/v1/schedules/{schedule.id}"})


@routes.get("/schedules/{scheduleId}", answers={200: Shape("the schedule, with its next runs", Schedule)})
def get_schedule(call: Call, schedule_id: str) -> Answer:
    """Read a schedule."""
    return Answer(_json(_schedule(call, schedule_id)))


@routes.get("/schedules/{scheduleId}/next", answers={200: Shape("in order", ScheduleRuns)})
def list_next_runs(call: Call, schedule_id: str, query: NextRunsQuery) -> Answer:
    """Tell the next runs of a schedule."""
    runs = next_runs(_schedule(call, schedule_id), query.count)
    return Answer({"items": [run_json(run) for run in runs]})


@routes.put(
    "/schedules/{scheduleId}",
    permission=Permission.DEFINE,
    answers={200: Shape("the schedule as it is now", Schedule)},
    example=_EXAMPLE,
)
def change_schedule(call: Call, schedule_id: str, body: ScheduleBody) -> Answer:
    """Change a schedule.

    The body is the whole schedule: what it leaves out has its default again. One whose timing changes waits for its next
    instant from now on.
    """
    schedule = replace_schedule(
        call.tx, call.tenant_id, schedule_id, _request(body), actor=call.actor, limits=call.limits
    )
    return Answer(_json(schedule))


@routes.delete(
    "/schedules/{scheduleId}",
    permission=Permission.DEFINE,
    answers={200: Shape("the schedule as it was", Schedule)},
)
def remove_schedule(call: Call, schedule_id: str) -> Answer:
    """Delete a schedule.

    What it has started goes on.
    """
    schedule = delete_schedule(call.tx, call.tenant_id, schedule_id)
    return Answer(schedule_json(schedule, []))


@routes.post(
    "/schedules/{scheduleId}/pause",
    permission=Permission.OPERATE,
    answers={200: Shape("the schedule as it is now", Schedule)},
)
def pause_one_schedule(call: Call, schedule_id: str, body: EmptyBody | None) -> Answer:
    """Pause a schedule.

    It starts nothing until it is resumed; what it has started goes on.
    """
    del body
    return Answer(_json(pause_schedule(call.tx, call.tenant_id, schedule_id, actor=call.actor)))


@routes.post(
    "/schedules/{scheduleId}/resume",
    permission=Permission.OPERATE,
    answers={200: Shape("the schedule as it is now", Schedule)},
)
def resume_one_schedule(call: Call, schedule_id: str, body: ResumeScheduleBody | None) -> Answer:
    """Resume a paused schedule.

    It goes on with its next instant from now on; what came during the pause is left out unless `catchUp` asks for it.
    """
    catch_up = body is not None and body.catch_up
    schedule = resume_schedule(call.tx, call.tenant_id, schedule_id, catch_up=catch_up, actor=call.actor)
    return Answer(_json(schedule))


@routes.post(
    "/schedules/{scheduleId}/trigger",
    permission=Permission.OPERATE,
    answers={
        201: Shape("the instance that it has started", Instance),
        202: Shape("with Prefer: started, and not settled in that time", Instance),
    },
    wait=0.0,
)
def fire_schedule_now(call: Call, schedule_id: str, body: EmptyBody | None) -> Answer:
    """Start one run now.

    Whatever lives, also of a paused schedule; what it waits for stays as it is.
    """
    del body
    instance_id = fire_schedule(call.tx, call.tenant_id, schedule_id, actor=call.actor, limits=call.limits)
    record = listing.read_instance(call.tx, call.tenant_id, instance_id)
    if record is None:
        raise missing("instance", instance_id)
    return Answer(
        instance_json(record),
        201,
        {"Location": f"/api/v1/instances/{instance_id}"},
        follow=Follow(call.tenant_id, instance_id, settled_status=201, unsettled_status=202),
    )


def _request(body: ScheduleBody) -> ScheduleRequest:
    texts = {ScheduleKind.CRON: body.cron, ScheduleKind.EVERY: body.every, ScheduleKind.AT: body.at}
    given = [(kind, str(text)) for kind, text in texts.items() if text is not None]
    if len(given) != 1:
        found = " and ".join(kind for kind, _ in given) or "none"
        raise Invalid(f"expected exactly one of cron, every and at, found {found}", code="schedule.invalid")
    ((kind, expression),) = given
    return ScheduleRequest(
        definition_key=body.definition_key,
        kind=kind,
        expression=expression,
        name=body.name,
        timezone=body.timezone,
        overlap=body.overlap,
        catch_up=body.catch_up,
        catch_up_limit=body.catch_up_limit,
        jitter=body.jitter,
        input=body.input,
        business_key=body.business_key,
        paused=body.paused,
    )


def _schedule(call: Call, schedule_id: str) -> store.Schedule:
    schedule = store.read(call.tx, call.tenant_id, schedule_id)
    if schedule is None:
        raise missing("schedule", schedule_id)
    return schedule


def _json(schedule: store.Schedule) -> dict[str, object]:
    return schedule_json(schedule, next_runs(schedule, SHOWN))
