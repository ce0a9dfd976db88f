CREATE TABLE handlers (
    type TEXT NOT NULL,
    name TEXT DEFAULT '' NOT NULL,
    description TEXT DEFAULT '' NOT NULL,
    light BOOLEAN DEFAULT false NOT NULL,
    isolated BOOLEAN DEFAULT false NOT NULL,
    input_schema TEXT,
    output_schema TEXT,
    published_at DATETIME NOT NULL,
    CONSTRAINT pk_handlers PRIMARY KEY (type, name)
)

CREATE TABLE tenants (
    id VARCHAR(36) NOT NULL,
    name TEXT NOT NULL,
    created_at DATETIME NOT NULL,
    CONSTRAINT pk_tenants PRIMARY KEY (id),
    CONSTRAINT uq_tenants_name UNIQUE (name)
)

CREATE TABLE workers (
    id VARCHAR(36) NOT NULL,
    duty TEXT NOT NULL,
    host TEXT NOT NULL,
    pid INTEGER NOT NULL,
    version TEXT NOT NULL,
    types TEXT DEFAULT '[]' NOT NULL,
    slots INTEGER DEFAULT '0' NOT NULL,
    started_at DATETIME NOT NULL,
    seen_at DATETIME NOT NULL,
    ended_at DATETIME,
    died_at DATETIME,
    CONSTRAINT pk_workers PRIMARY KEY (id)
)

CREATE INDEX ix_workers_seen_at ON workers (seen_at)

CREATE TABLE api_keys (
    id VARCHAR(36) NOT NULL,
    tenant_id VARCHAR(36) NOT NULL,
    name TEXT NOT NULL,
    role TEXT NOT NULL CONSTRAINT ck_api_keys_role CHECK (role IN ('viewer', 'operator', 'author', 'worker', 'admin')),
    prefix TEXT NOT NULL,
    hash BLOB NOT NULL,
    created_at DATETIME NOT NULL,
    expires_at DATETIME,
    revoked_at DATETIME,
    CONSTRAINT pk_api_keys PRIMARY KEY (id),
    CONSTRAINT fk_api_keys_tenant_id_tenants FOREIGN KEY(tenant_id) REFERENCES tenants (id),
    CONSTRAINT uq_api_keys_prefix UNIQUE (prefix)
)

CREATE TABLE definitions (
    id VARCHAR(36) NOT NULL,
    tenant_id VARCHAR(36) NOT NULL,
    "key" TEXT NOT NULL,
    version INTEGER NOT NULL,
    status TEXT NOT NULL CONSTRAINT ck_definitions_status CHECK (status IN ('draft', 'active', 'inactive', 'archived')),
    document TEXT NOT NULL,
    checksum TEXT NOT NULL,
    dialect TEXT DEFAULT 'signalbox' NOT NULL,
    warnings TEXT DEFAULT '[]' NOT NULL,
    labels JSON DEFAULT '{}' NOT NULL,
    created_by TEXT NOT NULL,
    created_at DATETIME NOT NULL,
    CONSTRAINT pk_definitions PRIMARY KEY (id),
    CONSTRAINT uq_definitions_tenant_id_key_version UNIQUE (tenant_id, "key", version),
    CONSTRAINT uq_definitions_tenant_id_id UNIQUE (tenant_id, id),
    CONSTRAINT fk_definitions_tenant_id_tenants FOREIGN KEY(tenant_id) REFERENCES tenants (id)
)

CREATE UNIQUE INDEX uq_definitions_active ON definitions (tenant_id, "key") WHERE status = 'active'

CREATE TABLE idempotency (
    tenant_id VARCHAR(36) NOT NULL,
    principal TEXT NOT NULL,
    "key" TEXT NOT NULL,
    digest BLOB NOT NULL,
    status SMALLINT NOT NULL,
    answer TEXT NOT NULL,
    created_at DATETIME NOT NULL,
    expires_at DATETIME NOT NULL,
    CONSTRAINT pk_idempotency PRIMARY KEY (tenant_id, principal, "key"),
    CONSTRAINT fk_idempotency_tenant_id_tenants FOREIGN KEY(tenant_id) REFERENCES tenants (id)
)

CREATE INDEX ix_idempotency_expires_at ON idempotency (expires_at)

CREATE TABLE instances (
    id VARCHAR(36) NOT NULL,
    tenant_id VARCHAR(36) NOT NULL,
    definition_id VARCHAR(36) NOT NULL,
    definition_key TEXT NOT NULL,
    definition_version INTEGER NOT NULL,
    business_key TEXT,
    status TEXT NOT NULL CONSTRAINT ck_instances_status CHECK (status IN ('pending', 'running', 'waiting', 'paused', 'compensating', 'completed', 'failed', 'cancelled', 'timed_out')),
    configuration TEXT DEFAULT '[]' NOT NULL,
    snapshot TEXT,
    input TEXT DEFAULT 'null' NOT NULL,
    output TEXT,
    error TEXT,
    sequence INTEGER DEFAULT '0' NOT NULL,
    head_hash BLOB NOT NULL,
    last_step_at DATETIME,
    strikes SMALLINT DEFAULT '0' NOT NULL,
    open_tasks INTEGER DEFAULT '0' NOT NULL,
    open_timers INTEGER DEFAULT '0' NOT NULL,
    open_children INTEGER DEFAULT '0' NOT NULL,
    accepts_events BOOLEAN DEFAULT true NOT NULL,
    priority SMALLINT DEFAULT '0' NOT NULL,
    parent_id VARCHAR(36),
    deadline_at DATETIME,
    labels JSON DEFAULT '{}' NOT NULL,
    created_at DATETIME NOT NULL,
    started_at DATETIME,
    finished_at DATETIME,
    CONSTRAINT pk_instances PRIMARY KEY (id),
    CONSTRAINT ck_instances_finished CHECK ((status IN ('completed', 'cancelled', 'timed_out')) = (finished_at IS NOT NULL)),
    CONSTRAINT uq_instances_tenant_id_id UNIQUE (tenant_id, id),
    CONSTRAINT fk_instances_tenant_id_definition_id_definitions FOREIGN KEY(tenant_id, definition_id) REFERENCES definitions (tenant_id, id),
    CONSTRAINT fk_instances_tenant_id_parent_id_instances FOREIGN KEY(tenant_id, parent_id) REFERENCES instances (tenant_id, id)
)

CREATE INDEX ix_instances_parent_id ON instances (parent_id)

CREATE UNIQUE INDEX uq_instances_business_key ON instances (tenant_id, definition_key, business_key) WHERE business_key IS NOT NULL AND status IN ('pending', 'running', 'waiting', 'paused', 'compensating')

CREATE TABLE history (
    instance_id VARCHAR(36) NOT NULL,
    sequence INTEGER NOT NULL,
    tenant_id VARCHAR(36) NOT NULL,
    at DATETIME NOT NULL,
    actor TEXT NOT NULL,
    input TEXT,
    changes TEXT,
    salt BLOB,
    digest BLOB NOT NULL,
    previous_hash BLOB NOT NULL,
    hash BLOB NOT NULL,
    tx INTEGER DEFAULT 0 NOT NULL,
    CONSTRAINT pk_history PRIMARY KEY (instance_id, sequence),
    CONSTRAINT fk_history_tenant_id_instance_id_instances FOREIGN KEY(tenant_id, instance_id) REFERENCES instances (tenant_id, id),
    CONSTRAINT ck_history_sequence CHECK (sequence > 0),
    CONSTRAINT ck_history_erased CHECK ((input IS NULL) = (salt IS NULL) AND (changes IS NULL) = (salt IS NULL))
)

CREATE TABLE inbox (
    id INTEGER NOT NULL PRIMARY KEY AUTOINCREMENT,
    tenant_id VARCHAR(36) NOT NULL,
    instance_id VARCHAR(36) NOT NULL,
    lane SMALLINT NOT NULL CONSTRAINT ck_inbox_lane CHECK (lane IN (0, 1)),
    type TEXT NOT NULL CONSTRAINT ck_inbox_type CHECK (type IN ('start', 'event', 'task', 'task.late', 'timer', 'child', 'undelivered', 'incident', 'note', 'cancel', 'pause', 'resume', 'retry')),
    body TEXT NOT NULL,
    source TEXT NOT NULL,
    accepted_at DATETIME NOT NULL,
    parked BOOLEAN DEFAULT false NOT NULL,
    CONSTRAINT fk_inbox_tenant_id_instance_id_instances FOREIGN KEY(tenant_id, instance_id) REFERENCES instances (tenant_id, id)
)

CREATE INDEX ix_inbox_instance ON inbox (instance_id, lane, id)

CREATE INDEX ix_inbox_ready ON inbox (id) WHERE NOT parked

CREATE TABLE tasks (
    id VARCHAR(36) NOT NULL,
    tenant_id VARCHAR(36) NOT NULL,
    instance_id VARCHAR(36) NOT NULL,
    "key" TEXT NOT NULL,
    joined_keys TEXT,
    type TEXT NOT NULL,
    name TEXT NOT NULL,
    status TEXT NOT NULL CONSTRAINT ck_tasks_status CHECK (status IN ('pending', 'running', 'succeeded', 'failed', 'cancelled', 'skipped')),
    priority SMALLINT DEFAULT '0' NOT NULL,
    run_at DATETIME NOT NULL,
    held BOOLEAN DEFAULT false NOT NULL,
    attempt INTEGER DEFAULT '0' NOT NULL,
    max_attempts INTEGER NOT NULL,
    lost SMALLINT DEFAULT '0' NOT NULL,
    retry TEXT,
    timeout_ms INTEGER,
    options TEXT,
    completion_event TEXT NOT NULL,
    failure_event TEXT NOT NULL,
    idempotency_key TEXT,
    lease_owner VARCHAR(36),
    lease_token VARCHAR(36),
    lease_expires_at DATETIME,
    input TEXT NOT NULL,
    output TEXT,
    error TEXT,
    progress TEXT,
    created_at DATETIME NOT NULL,
    finished_at DATETIME,
    CONSTRAINT pk_tasks PRIMARY KEY (id),
    CONSTRAINT uq_tasks_instance_id_key UNIQUE (instance_id, "key"),
    CONSTRAINT ck_tasks_finished CHECK ((status IN ('succeeded', 'failed', 'cancelled', 'skipped')) = (finished_at IS NOT NULL)),
    CONSTRAINT ck_tasks_leased CHECK (lease_token IS NULL OR status = 'running'),
    CONSTRAINT ck_tasks_lease CHECK ((lease_token IS NULL) = (lease_expires_at IS NULL) AND (lease_token IS NULL) = (lease_owner IS NULL)),
    CONSTRAINT uq_tasks_tenant_id_id UNIQUE (tenant_id, id),
    CONSTRAINT fk_tasks_tenant_id_instance_id_instances FOREIGN KEY(tenant_id, instance_id) REFERENCES instances (tenant_id, id)
)

CREATE INDEX ix_tasks_due ON tasks (type, priority DESC, run_at, id) WHERE status = 'pending' AND NOT held

CREATE INDEX ix_tasks_lease ON tasks (lease_expires_at) WHERE status = 'running' AND lease_token IS NOT NULL

CREATE UNIQUE INDEX uq_tasks_idempotency_key ON tasks (instance_id, idempotency_key) WHERE idempotency_key IS NOT NULL

CREATE TABLE timers (
    id VARCHAR(36) NOT NULL,
    tenant_id VARCHAR(36) NOT NULL,
    instance_id VARCHAR(36) NOT NULL,
    "key" TEXT NOT NULL,
    due_at DATETIME NOT NULL,
    status TEXT NOT NULL CONSTRAINT ck_timers_status CHECK (status IN ('armed', 'fired', 'cancelled')),
    inbox_type TEXT DEFAULT 'timer' NOT NULL,
    body TEXT NOT NULL,
    created_at DATETIME NOT NULL,
    finished_at DATETIME,
    CONSTRAINT pk_timers PRIMARY KEY (id),
    CONSTRAINT uq_timers_instance_id_key UNIQUE (instance_id, "key"),
    CONSTRAINT fk_timers_tenant_id_instance_id_instances FOREIGN KEY(tenant_id, instance_id) REFERENCES instances (tenant_id, id),
    CONSTRAINT ck_timers_finished CHECK ((status = 'armed') = (finished_at IS NULL))
)

CREATE INDEX ix_timers_due ON timers (due_at) WHERE status = 'armed'

CREATE TABLE attempts (
    task_id VARCHAR(36) NOT NULL,
    token VARCHAR(36) NOT NULL,
    tenant_id VARCHAR(36) NOT NULL,
    attempt INTEGER NOT NULL,
    worker_id VARCHAR(36) NOT NULL,
    started_at DATETIME NOT NULL,
    ended_at DATETIME,
    outcome TEXT CONSTRAINT ck_attempts_outcome CHECK (outcome IN ('succeeded', 'failed', 'released', 'lost', 'cancelled', 'late')),
    error TEXT,
    progress TEXT,
    result_digest BLOB,
    CONSTRAINT pk_attempts PRIMARY KEY (task_id, token),
    CONSTRAINT fk_attempts_tenant_id_task_id_tasks FOREIGN KEY(tenant_id, task_id) REFERENCES tasks (tenant_id, id),
    CONSTRAINT ck_attempts_ended CHECK ((ended_at IS NULL) = (outcome IS NULL))
)

CREATE TABLE incidents (
    id VARCHAR(36) NOT NULL,
    tenant_id VARCHAR(36) NOT NULL,
    instance_id VARCHAR(36) NOT NULL,
    task_id VARCHAR(36),
    code TEXT NOT NULL,
    message TEXT NOT NULL,
    detail TEXT DEFAULT '{}' NOT NULL,
    sequence INTEGER NOT NULL,
    status TEXT NOT NULL CONSTRAINT ck_incidents_status CHECK (status IN ('open', 'resolved')),
    opened_at DATETIME NOT NULL,
    resolved_at DATETIME,
    resolved_by TEXT,
    CONSTRAINT pk_incidents PRIMARY KEY (id),
    CONSTRAINT fk_incidents_tenant_id_instance_id_instances FOREIGN KEY(tenant_id, instance_id) REFERENCES instances (tenant_id, id),
    CONSTRAINT fk_incidents_tenant_id_task_id_tasks FOREIGN KEY(tenant_id, task_id) REFERENCES tasks (tenant_id, id),
    CONSTRAINT ck_incidents_resolved CHECK ((status = 'open') = (resolved_at IS NULL))
)

CREATE INDEX ix_incidents_instance_id ON incidents (instance_id)

CREATE INDEX ix_incidents_list ON incidents (tenant_id, id)

CREATE TRIGGER history_refuses_update BEFORE UPDATE ON history
BEGIN
    SELECT RAISE(ABORT, 'history is append-only: UPDATE refused');
END

CREATE TRIGGER history_refuses_delete BEFORE DELETE ON history
BEGIN
    SELECT RAISE(ABORT, 'history is append-only: DELETE refused');
END

CREATE TRIGGER history_refuses_replace BEFORE INSERT ON history
WHEN EXISTS (SELECT 1 FROM history WHERE instance_id = NEW.instance_id AND sequence = NEW.sequence)
    OR EXISTS (SELECT 1 FROM history WHERE rowid = NEW.rowid)
BEGIN
    SELECT RAISE(ABORT, 'history is append-only: REPLACE refused');
END
