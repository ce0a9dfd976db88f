ALTER TABLE instances ADD COLUMN erased_at TIMESTAMP WITH TIME ZONE

CREATE INDEX ix_instances_finished ON instances (definition_id, status, finished_at, id) WHERE finished_at IS NOT NULL

ALTER TABLE definitions ADD COLUMN retention TEXT

ALTER TABLE idempotency ADD COLUMN instance_id UUID

CREATE INDEX ix_incidents_task_id ON incidents (task_id) WHERE task_id IS NOT NULL

CREATE INDEX ix_suggestions_task_id ON suggestions (task_id)

ALTER TABLE inbox DROP CONSTRAINT ck_inbox_type

ALTER TABLE inbox ADD CONSTRAINT ck_inbox_type CHECK (type IN ('start', 'event', 'task', 'task.late', 'timer', 'child', 'undelivered', 'incident', 'note', 'record', 'cancel', 'pause', 'resume', 'retry', 'restart', 'step', 'timeout', 'erase'))

CREATE TABLE tombstones (
    instance_id UUID NOT NULL,
    tenant_id UUID NOT NULL,
    definition_key TEXT NOT NULL,
    definition_version INTEGER NOT NULL,
    status TEXT NOT NULL CONSTRAINT ck_tombstones_status CHECK (status IN ('completed', 'cancelled', 'timed_out')),
    parent_id UUID,
    created_at TIMESTAMP WITH TIME ZONE NOT NULL,
    started_at TIMESTAMP WITH TIME ZONE,
    finished_at TIMESTAMP WITH TIME ZONE NOT NULL,
    erased_at TIMESTAMP WITH TIME ZONE,
    sequence INTEGER NOT NULL,
    head_hash BYTEA NOT NULL,
    deleted_at TIMESTAMP WITH TIME ZONE NOT NULL,
    reason TEXT NOT NULL,
    CONSTRAINT pk_tombstones PRIMARY KEY (instance_id),
    CONSTRAINT fk_tombstones_tenant_id_tenants FOREIGN KEY(tenant_id) REFERENCES tenants (id)
)

CREATE INDEX ix_tombstones_list ON tombstones (tenant_id, deleted_at)

CREATE OR REPLACE FUNCTION refuse_history_change() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF TG_OP = 'UPDATE' THEN
        IF NEW.input IS NULL AND NEW.changes IS NULL AND NEW.salt IS NULL
            AND (NEW.instance_id, NEW.sequence, NEW.tenant_id, NEW.at, NEW.actor, NEW.digest, NEW.previous_hash, NEW.hash)
                = (OLD.instance_id, OLD.sequence, OLD.tenant_id, OLD.at, OLD.actor, OLD.digest, OLD.previous_hash, OLD.hash)
            AND NEW.tx = OLD.tx
            AND EXISTS (SELECT 1 FROM instances WHERE id = OLD.instance_id AND finished_at IS NOT NULL)
        THEN
            RETURN NEW;
        END IF;
    ELSIF TG_OP = 'DELETE' THEN
        IF EXISTS (SELECT 1 FROM tombstones WHERE instance_id = OLD.instance_id AND tenant_id = OLD.tenant_id) THEN
            RETURN OLD;
        END IF;
    END IF;
    RAISE EXCEPTION 'history is append-only: % refused', TG_OP USING ERRCODE = 'restrict_violation';
END
$$

CREATE FUNCTION refuse_tombstone_change() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION 'tombstones are append-only: % refused', TG_OP USING ERRCODE = 'restrict_violation';
END
$$

CREATE TRIGGER tombstones_are_append_only BEFORE UPDATE OR DELETE ON tombstones
    FOR EACH ROW EXECUTE FUNCTION refuse_tombstone_change()

CREATE TRIGGER tombstones_are_never_truncated BEFORE TRUNCATE ON tombstones
    FOR EACH STATEMENT EXECUTE FUNCTION refuse_tombstone_change()
