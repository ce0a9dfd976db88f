ALTER TABLE instances ADD COLUMN parent_key TEXT

ALTER TABLE instances ADD COLUMN cancel_with_parent BOOLEAN DEFAULT true NOT NULL

ALTER TABLE instances ADD COLUMN depth SMALLINT DEFAULT '0' NOT NULL CONSTRAINT ck_instances_depth CHECK (depth >= 0)

DROP INDEX ix_instances_parent_id

CREATE UNIQUE INDEX uq_instances_parent_key ON instances (parent_id, parent_key) WHERE parent_id IS NOT NULL

ALTER TABLE tasks ADD COLUMN heartbeat_ms INTEGER

ALTER TABLE tasks ADD COLUMN start_within_ms INTEGER

ALTER TABLE tasks ADD COLUMN finish_within_ms INTEGER

ALTER TABLE tasks ADD COLUMN start_by_at DATETIME

ALTER TABLE tasks ADD COLUMN finish_by_at DATETIME

CREATE INDEX ix_tasks_start_by ON tasks (start_by_at) WHERE status = 'pending' AND start_by_at IS NOT NULL

CREATE INDEX ix_tasks_finish_by ON tasks (finish_by_at) WHERE finished_at IS NULL AND finish_by_at IS NOT NULL

ALTER TABLE incidents ADD COLUMN resolution TEXT

ALTER TABLE handlers ADD COLUMN retry TEXT

CREATE TABLE new_inbox (
    id INTEGER NOT NULL PRIMARY KEY AUTOINCREMENT,
    tenant_id VARCHAR(36) NOT NULL,
    instance_id VARCHAR(36) NOT NULL,
    lane SMALLINT NOT NULL CONSTRAINT ck_inbox_lane CHECK (lane IN (0, 1)),
    type TEXT NOT NULL CONSTRAINT ck_inbox_type CHECK (type IN ('start', 'event', 'task', 'task.late', 'timer', 'child', 'undelivered', 'incident', 'note', 'cancel', 'pause', 'resume', 'retry', 'restart', 'step', 'timeout')),
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
    outcome TEXT CONSTRAINT ck_attempts_outcome CHECK (outcome IN ('succeeded', 'failed', 'released', 'lost', 'cancelled', 'late', 'timed_out')),
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
