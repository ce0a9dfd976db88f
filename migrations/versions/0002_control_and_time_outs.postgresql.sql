ALTER TABLE instances ADD COLUMN parent_key TEXT

ALTER TABLE instances ADD COLUMN cancel_with_parent BOOLEAN DEFAULT true NOT NULL

ALTER TABLE instances ADD COLUMN depth SMALLINT DEFAULT '0' NOT NULL CONSTRAINT ck_instances_depth CHECK (depth >= 0)

DROP INDEX ix_instances_parent_id

CREATE UNIQUE INDEX uq_instances_parent_key ON instances (parent_id, parent_key) WHERE parent_id IS NOT NULL

ALTER TABLE tasks ADD COLUMN heartbeat_ms BIGINT

ALTER TABLE tasks ADD COLUMN start_within_ms BIGINT

ALTER TABLE tasks ADD COLUMN finish_within_ms BIGINT

ALTER TABLE tasks ADD COLUMN start_by_at TIMESTAMP WITH TIME ZONE

ALTER TABLE tasks ADD COLUMN finish_by_at TIMESTAMP WITH TIME ZONE

CREATE INDEX ix_tasks_start_by ON tasks (start_by_at) WHERE status = 'pending' AND start_by_at IS NOT NULL

CREATE INDEX ix_tasks_finish_by ON tasks (finish_by_at) WHERE finished_at IS NULL AND finish_by_at IS NOT NULL

ALTER TABLE incidents ADD COLUMN resolution TEXT

ALTER TABLE handlers ADD COLUMN retry TEXT

ALTER TABLE inbox DROP CONSTRAINT ck_inbox_type

ALTER TABLE inbox ADD CONSTRAINT ck_inbox_type CHECK (type IN ('start', 'event', 'task', 'task.late', 'timer', 'child', 'undelivered', 'incident', 'note', 'cancel', 'pause', 'resume', 'retry', 'restart', 'step', 'timeout'))

ALTER TABLE attempts DROP CONSTRAINT ck_attempts_outcome

ALTER TABLE attempts ADD CONSTRAINT ck_attempts_outcome CHECK (outcome IN ('succeeded', 'failed', 'released', 'lost', 'cancelled', 'late', 'timed_out'))
