"""The routes, one file a resource. `OPERATIONS` is the whole table: nothing is served that is not in it."""

from api.operations import Operation
from api.routes.breakers import routes as breaker_routes
from api.routes.configs import routes as config_routes
from api.routes.control import routes as control_routes
from api.routes.definitions import routes as definition_routes
from api.routes.documentation import routes as documentation_routes
from api.routes.erasure import routes as erasure_routes
from api.routes.handlers import routes as handler_routes
from api.routes.incidents import routes as incident_routes
from api.routes.instances import routes as instance_routes
from api.routes.limits import routes as limit_routes
from api.routes.links import link_routes
from api.routes.links import routes as link_making_routes
from api.routes.metadata import routes as metadata_routes
from api.routes.metrics import routes as metrics_routes
from api.routes.overview import health_routes
from api.routes.overview import routes as overview_routes
from api.routes.schedules import routes as schedule_routes
from api.routes.secrets import routes as secret_routes
from api.routes.suggestions import routes as suggestion_routes
from api.routes.tasks import routes as task_routes
from api.routes.triggers import routes as trigger_routes

OPERATIONS: tuple[Operation, ...] = (
    *definition_routes.operations,
    *instance_routes.operations,
    *control_routes.operations,
    *erasure_routes.operations,
    *incident_routes.operations,
    *task_routes.operations,
    *config_routes.operations,
    *limit_routes.operations,
    *secret_routes.operations,
    *metadata_routes.operations,
    *suggestion_routes.operations,
    *schedule_routes.operations,
    *link_making_routes.operations,
    *link_routes.operations,
    *trigger_routes.operations,
    *breaker_routes.operations,
    *handler_routes.operations,
    *overview_routes.operations,
    *health_routes.operations,
    *metrics_routes.operations,
    *documentation_routes.operations,
)

__all__ = ["OPERATIONS"]
