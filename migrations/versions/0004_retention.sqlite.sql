ALTER TABLE instances ADD COLUMN erased_at DATETIME

CREATE INDEX ix_instances_finished ON instances (definition_id, status, finished_at, id) WHERE finished_at IS NOT NULL

ALTER TABLE definitions ADD COLUMN retention TEXT

ALTER TABLE idempotency ADD COLUMN instance_id VARCHAR(36)

CREATE INDEX ix_incidents_task_id ON incidents (task_id) WHERE task_id IS NOT NULL

CREATE INDEX ix_suggestions_task_id ON suggestions (task_id)

CREATE TABLE new_inbox (
    id INTEGER NOT NULL PRIMARY KEY AUTOINCREMENT,
    tenant_id VARCHAR(36) NOT NULL,
    instance_id VARCHAR(36) NOT NULL,
    lane SMALLINT NOT NULL CONSTRAINT ck_inbox_lane CHECK (lane IN (0, 1)),
    type TEXT NOT NULL CONSTRAINT ck_inbox_type CHECK (type IN ('start', 'event', 'task', 'task.late', 'timer', 'child', 'undelivered', 'incident', 'note', 'record', 'cancel', 'pause', 'resume', 'retry', 'restart', 'step', 'timeout', 'erase')),
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

CREATE TABLE tombstones (
    instance_id VARCHAR(36) NOT NULL,
    tenant_id VARCHAR(36) NOT NULL,
    definition_key TEXT NOT NULL,
    definition_version INTEGER NOT NULL,
    status TEXT NOT NULL CONSTRAINT ck_tombstones_status CHECK (status IN ('completed', 'cancelled', 'timed_out')),
    parent_id VARCHAR(36),
    created_at DATETIME NOT NULL,
    started_at DATETIME,
    finished_at DATETIME NOT NULL,
    erased_at DATETIME,
    sequence INTEGER NOT NULL,
    head_hash BLOB NOT NULL,
    deleted_at DATETIME NOT NULL,
    reason TEXT NOT NULL,
    CONSTRAINT pk_tombstones PRIMARY KEY (instance_id),
    CONSTRAINT fk_tombstones_tenant_id_tenants FOREIGN KEY(tenant_id) REFERENCES tenants (id)
)

CREATE INDEX ix_tombstones_list ON tombstones (tenant_id, deleted_at)

DROP TRIGGER history_refuses_update

CREATE TRIGGER history_refuses_update BEFORE UPDATE ON history
WHEN NOT (NEW.input IS NULL AND NEW.changes IS NULL AND NEW.salt IS NULL
    AND NEW.instance_id IS OLD.instance_id AND NEW.sequence IS OLD.sequence AND NEW.tenant_id IS OLD.tenant_id
    AND NEW.at IS OLD.at AND NEW.actor IS OLD.actor AND NEW.digest IS OLD.digest
    AND NEW.previous_hash IS OLD.previous_hash AND NEW.hash IS OLD.hash AND NEW.tx IS OLD.tx AND NEW.rowid IS OLD.rowid
    AND EXISTS (SELECT 1 FROM instances WHERE id = OLD.instance_id AND finished_at IS NOT NULL))
BEGIN
    SELECT RAISE(ABORT, 'history is append-only: UPDATE refused');
END

DROP TRIGGER history_refuses_delete

CREATE TRIGGER history_refuses_delete BEFORE DELETE ON history
WHEN NOT EXISTS (SELECT 1 FROM tombstones WHERE instance_id = OLD.instance_id AND tenant_id = OLD.tenant_id)
BEGIN
    SELECT RAISE(ABORT, 'history is append-only: DELETE refused');
END

CREATE TRIGGER tombstones_refuse_update BEFORE UPDATE ON tombstones
BEGIN
    SELECT RAISE(ABORT, 'tombstones are append-only: UPDATE refused');
END

CREATE TRIGGER tombstones_refuse_delete BEFORE DELETE ON tombstones
BEGIN
    SELECT RAISE(ABORT, 'tombstones are append-only: DELETE refused');
END

CREATE TRIGGER tombstones_refuse_replace BEFORE INSERT ON tombstones
WHEN EXISTS (SELECT 1 FROM tombstones WHERE instance_id = NEW.instance_id OR rowid = NEW.rowid)
BEGIN
    SELECT RAISE(ABORT, 'tombstones are append-only: REPLACE refused');
END
