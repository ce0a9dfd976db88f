ALTER TABLE instances ADD COLUMN schedule_id VARCHAR(36)

ALTER TABLE instances ADD COLUMN scheduled_at DATETIME

CREATE INDEX ix_instances_scheduled ON instances (schedule_id) WHERE schedule_id IS NOT NULL AND status IN ('pending', 'running', 'waiting', 'paused', 'compensating')

CREATE UNIQUE INDEX uq_instances_schedule ON instances (schedule_id, scheduled_at) WHERE schedule_id IS NOT NULL

CREATE TABLE schedules (
    id VARCHAR(36) NOT NULL,
    tenant_id VARCHAR(36) NOT NULL,
    name TEXT,
    definition_key TEXT NOT NULL,
    source TEXT NOT NULL CONSTRAINT ck_schedules_source CHECK (source IN ('api', 'definition')),
    kind TEXT NOT NULL CONSTRAINT ck_schedules_kind CHECK (kind IN ('cron', 'every', 'at')),
    expression TEXT NOT NULL,
    timezone TEXT NOT NULL,
    anchor_at DATETIME NOT NULL,
    overlap TEXT NOT NULL CONSTRAINT ck_schedules_overlap CHECK (overlap IN ('skip', 'queue', 'cancel', 'allow')),
    catch_up TEXT NOT NULL CONSTRAINT ck_schedules_catch_up CHECK (catch_up IN ('none', 'last', 'all')),
    catch_up_limit INTEGER NOT NULL,
    jitter_ms INTEGER NOT NULL,
    input TEXT,
    business_key TEXT,
    paused BOOLEAN NOT NULL,
    active BOOLEAN NOT NULL,
    scheduled_at DATETIME,
    next_at DATETIME,
    queued TEXT DEFAULT '[]' NOT NULL,
    last_scheduled_at DATETIME,
    last_fired_at DATETIME,
    last_instance_id VARCHAR(36),
    last_error TEXT,
    fired INTEGER DEFAULT '0' NOT NULL,
    skipped INTEGER DEFAULT '0' NOT NULL,
    refused INTEGER DEFAULT '0' NOT NULL,
    created_at DATETIME NOT NULL,
    created_by TEXT NOT NULL,
    updated_at DATETIME NOT NULL,
    updated_by TEXT NOT NULL,
    CONSTRAINT pk_schedules PRIMARY KEY (id),
    CONSTRAINT ck_schedules_next CHECK ((next_at IS NULL) = (scheduled_at IS NULL)),
    CONSTRAINT ck_schedules_active CHECK (active OR next_at IS NULL),
    CONSTRAINT ck_schedules_bounds CHECK (jitter_ms >= 0 AND catch_up_limit > 0),
    CONSTRAINT fk_schedules_tenant_id_tenants FOREIGN KEY(tenant_id) REFERENCES tenants (id)
)

CREATE INDEX ix_schedules_due ON schedules (next_at) WHERE NOT paused AND next_at IS NOT NULL

CREATE INDEX ix_schedules_list ON schedules (tenant_id, id)

CREATE INDEX ix_schedules_queued ON schedules (id) WHERE NOT paused AND queued <> '[]'

CREATE UNIQUE INDEX uq_schedules_definition ON schedules (tenant_id, definition_key, name) WHERE source = 'definition'

CREATE TABLE triggers (
    id VARCHAR(36) NOT NULL,
    tenant_id VARCHAR(36) NOT NULL,
    name TEXT,
    definition_key TEXT NOT NULL,
    source TEXT NOT NULL CONSTRAINT ck_triggers_source CHECK (source IN ('api', 'definition')),
    event TEXT NOT NULL,
    condition TEXT,
    business_key TEXT,
    input TEXT,
    definition_id VARCHAR(36),
    enabled BOOLEAN NOT NULL,
    active BOOLEAN NOT NULL,
    created_at DATETIME NOT NULL,
    created_by TEXT NOT NULL,
    updated_at DATETIME NOT NULL,
    updated_by TEXT NOT NULL,
    CONSTRAINT pk_triggers PRIMARY KEY (id),
    CONSTRAINT fk_triggers_tenant_id_tenants FOREIGN KEY(tenant_id) REFERENCES tenants (id)
)

CREATE INDEX ix_triggers_event ON triggers (tenant_id, event) WHERE enabled AND active

CREATE INDEX ix_triggers_list ON triggers (tenant_id, id)

CREATE UNIQUE INDEX uq_triggers_definition ON triggers (tenant_id, definition_key, name) WHERE source = 'definition'

CREATE TABLE published (
    id INTEGER NOT NULL PRIMARY KEY AUTOINCREMENT,
    tenant_id VARCHAR(36) NOT NULL,
    trigger_id VARCHAR(36) NOT NULL,
    emitter_id VARCHAR(36) NOT NULL,
    depth SMALLINT NOT NULL,
    event TEXT NOT NULL,
    published_at DATETIME NOT NULL,
    CONSTRAINT fk_published_tenant_id_tenants FOREIGN KEY(tenant_id) REFERENCES tenants (id)
)
