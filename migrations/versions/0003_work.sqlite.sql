ALTER TABLE tasks ADD COLUMN asked_as TEXT

ALTER TABLE tasks ADD COLUMN parent_task_id VARCHAR(36)

ALTER TABLE tasks ADD COLUMN item_index INTEGER

ALTER TABLE tasks ADD COLUMN gated BOOLEAN DEFAULT false NOT NULL CONSTRAINT ck_tasks_gated CHECK (NOT gated OR parent_task_id IS NOT NULL)

ALTER TABLE tasks ADD COLUMN assignee TEXT

ALTER TABLE tasks ADD COLUMN candidates JSON

ALTER TABLE tasks ADD COLUMN due_at DATETIME

ALTER TABLE tasks ADD COLUMN ended_by TEXT

ALTER TABLE tasks ADD COLUMN secrets TEXT

ALTER TABLE tasks ADD COLUMN state TEXT

DROP INDEX ix_tasks_due

CREATE INDEX ix_tasks_due ON tasks (type, priority DESC, run_at, id) WHERE status = 'pending' AND NOT held AND NOT gated

CREATE INDEX ix_tasks_gated ON tasks (parent_task_id, item_index) WHERE gated

CREATE UNIQUE INDEX uq_tasks_item ON tasks (parent_task_id, item_index) WHERE parent_task_id IS NOT NULL

CREATE INDEX ix_tasks_people ON tasks (tenant_id, id) WHERE type = 'HUMAN' AND finished_at IS NULL

CREATE TABLE new_inbox (
    id INTEGER NOT NULL PRIMARY KEY AUTOINCREMENT,
    tenant_id VARCHAR(36) NOT NULL,
    instance_id VARCHAR(36) NOT NULL,
    lane SMALLINT NOT NULL CONSTRAINT ck_inbox_lane CHECK (lane IN (0, 1)),
    type TEXT NOT NULL CONSTRAINT ck_inbox_type CHECK (type IN ('start', 'event', 'task', 'task.late', 'timer', 'child', 'undelivered', 'incident', 'note', 'record', 'cancel', 'pause', 'resume', 'retry', 'restart', 'step', 'timeout')),
    body TEXT NOT NULL,
    source TEXT NOT NULL,
    accepted_at DATETIME NOT NULL,
    parked BOOLEAN DEFAULT false NOT NULL,
    CONSTRAINT fk_inbox_tenant_id_instance_id_instances FOREIGN KEY(tenant_id, instance_id) REFERENCES instances (tenant_id, id)
)

INSERT INTO new_inbox SELECT * FROM inbox

DELETE FROM sqlite_sequence WHERE name = 'new_inbox'

INSERT INTO sqlite_sequence (name, seq) SELECT 'new_inbox', seq FROM sqlite_sequence WHERE name = 'inbox'

DROP TABLE inbox

ALTER TABLE new_inbox RENAME TO inbox

CREATE INDEX ix_inbox_instance ON inbox (instance_id, lane, id)

CREATE INDEX ix_inbox_ready ON inbox (id) WHERE NOT parked

CREATE TABLE new_attempts (
    task_id VARCHAR(36) NOT NULL,
    token VARCHAR(36) NOT NULL,
    tenant_id VARCHAR(36) NOT NULL,
    attempt INTEGER NOT NULL,
    worker_id VARCHAR(36) NOT NULL,
    started_at DATETIME NOT NULL,
    ended_at DATETIME,
    outcome TEXT CONSTRAINT ck_attempts_outcome CHECK (outcome IN ('succeeded', 'failed', 'released', 'continued', 'lost', 'cancelled', 'late', 'timed_out')),
    error TEXT,
    progress TEXT,
    result_digest BLOB,
    CONSTRAINT pk_attempts PRIMARY KEY (task_id, token),
    CONSTRAINT fk_attempts_tenant_id_task_id_tasks FOREIGN KEY(tenant_id, task_id) REFERENCES tasks (tenant_id, id),
    CONSTRAINT ck_attempts_ended CHECK ((ended_at IS NULL) = (outcome IS NULL))
)

INSERT INTO new_attempts SELECT * FROM attempts

DROP TABLE attempts

ALTER TABLE new_attempts RENAME TO attempts

CREATE TABLE joins (
    task_id VARCHAR(36) NOT NULL,
    tenant_id VARCHAR(36) NOT NULL,
    instance_id VARCHAR(36) NOT NULL,
    total INTEGER NOT NULL,
    needed INTEGER NOT NULL,
    fail_fast BOOLEAN NOT NULL,
    concurrency INTEGER,
    succeeded INTEGER DEFAULT '0' NOT NULL,
    failed INTEGER DEFAULT '0' NOT NULL,
    ended_at DATETIME,
    CONSTRAINT pk_joins PRIMARY KEY (task_id),
    CONSTRAINT ck_joins_needed CHECK (total > 0 AND needed BETWEEN 1 AND total),
    CONSTRAINT ck_joins_counts CHECK (succeeded >= 0 AND failed >= 0 AND succeeded + failed <= total),
    CONSTRAINT fk_joins_tenant_id_task_id_tasks FOREIGN KEY(tenant_id, task_id) REFERENCES tasks (tenant_id, id),
    CONSTRAINT fk_joins_tenant_id_instance_id_instances FOREIGN KEY(tenant_id, instance_id) REFERENCES instances (tenant_id, id)
)

CREATE INDEX ix_joins_instance_id ON joins (instance_id)

CREATE TABLE suggestions (
    id VARCHAR(36) NOT NULL,
    tenant_id VARCHAR(36) NOT NULL,
    instance_id VARCHAR(36) NOT NULL,
    task_id VARCHAR(36) NOT NULL,
    event TEXT NOT NULL,
    payload TEXT NOT NULL,
    reason TEXT NOT NULL,
    confidence TEXT,
    status TEXT NOT NULL CONSTRAINT ck_suggestions_status CHECK (status IN ('open', 'accepted', 'rejected', 'expired')),
    created_at DATETIME NOT NULL,
    decided_at DATETIME,
    decided_by TEXT,
    comment TEXT,
    CONSTRAINT pk_suggestions PRIMARY KEY (id),
    CONSTRAINT ck_suggestions_decided CHECK ((status = 'open') = (decided_at IS NULL)),
    CONSTRAINT fk_suggestions_tenant_id_instance_id_instances FOREIGN KEY(tenant_id, instance_id) REFERENCES instances (tenant_id, id),
    CONSTRAINT fk_suggestions_tenant_id_task_id_tasks FOREIGN KEY(tenant_id, task_id) REFERENCES tasks (tenant_id, id)
)

CREATE INDEX ix_suggestions_instance_id ON suggestions (instance_id)

CREATE INDEX ix_suggestions_list ON suggestions (tenant_id, id)

CREATE TABLE used_links (
    tenant_id VARCHAR(36) NOT NULL,
    digest BLOB NOT NULL,
    instance_id VARCHAR(36) NOT NULL,
    person TEXT NOT NULL,
    used_at DATETIME NOT NULL,
    CONSTRAINT pk_used_links PRIMARY KEY (tenant_id, digest),
    CONSTRAINT fk_used_links_tenant_id_instance_id_instances FOREIGN KEY(tenant_id, instance_id) REFERENCES instances (tenant_id, id)
)

CREATE INDEX ix_used_links_instance_id ON used_links (instance_id)

CREATE TABLE instance_metadata (
    instance_id VARCHAR(36) NOT NULL,
    "key" TEXT NOT NULL,
    tenant_id VARCHAR(36) NOT NULL,
    value TEXT NOT NULL,
    updated_at DATETIME NOT NULL,
    updated_by TEXT NOT NULL,
    CONSTRAINT pk_instance_metadata PRIMARY KEY (instance_id, "key"),
    CONSTRAINT fk_instance_metadata_tenant_id_instance_id_instances FOREIGN KEY(tenant_id, instance_id) REFERENCES instances (tenant_id, id)
)

CREATE TABLE configs (
    id VARCHAR(36) NOT NULL,
    tenant_id VARCHAR(36) NOT NULL,
    scope TEXT NOT NULL CONSTRAINT ck_configs_scope CHECK (scope IN ('tenant', 'module', 'instance')),
    scope_id TEXT DEFAULT '' NOT NULL,
    module TEXT NOT NULL,
    "key" TEXT NOT NULL,
    value TEXT NOT NULL,
    description TEXT DEFAULT '' NOT NULL,
    updated_at DATETIME NOT NULL,
    updated_by TEXT NOT NULL,
    CONSTRAINT pk_configs PRIMARY KEY (id),
    CONSTRAINT uq_configs_tenant_id_module_key_scope_scope_id UNIQUE (tenant_id, module, "key", scope, scope_id),
    CONSTRAINT ck_configs_scope_id CHECK ((scope = 'instance') = (scope_id <> '')),
    CONSTRAINT fk_configs_tenant_id_tenants FOREIGN KEY(tenant_id) REFERENCES tenants (id)
)

CREATE TABLE secrets (
    tenant_id VARCHAR(36) NOT NULL,
    name TEXT NOT NULL,
    version INTEGER NOT NULL,
    key_id TEXT NOT NULL,
    sealed BLOB NOT NULL,
    created_at DATETIME NOT NULL,
    updated_at DATETIME NOT NULL,
    updated_by TEXT NOT NULL,
    CONSTRAINT pk_secrets PRIMARY KEY (tenant_id, name),
    CONSTRAINT fk_secrets_tenant_id_tenants FOREIGN KEY(tenant_id) REFERENCES tenants (id)
)
