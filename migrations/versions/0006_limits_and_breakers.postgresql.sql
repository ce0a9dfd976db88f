ALTER TABLE instances ADD COLUMN concurrency_key TEXT

ALTER TABLE instances ADD COLUMN queued BOOLEAN DEFAULT false NOT NULL CONSTRAINT ck_instances_queued CHECK (NOT queued OR concurrency_key IS NOT NULL)

CREATE INDEX ix_instances_concurrency ON instances (tenant_id, definition_key, concurrency_key, queued, id) WHERE concurrency_key IS NOT NULL AND status IN ('pending', 'running', 'waiting', 'paused', 'compensating')

CREATE INDEX ix_instances_queued ON instances (tenant_id, definition_key, concurrency_key, priority DESC, id) WHERE queued AND status = 'pending'

ALTER TABLE tasks ADD COLUMN limit_key TEXT

ALTER TABLE tasks ADD COLUMN breaker TEXT

ALTER TABLE tasks ADD COLUMN breaker_since TIMESTAMP WITH TIME ZONE

CREATE INDEX ix_tasks_running ON tasks (tenant_id, type) WHERE lease_owner IS NOT NULL

CREATE INDEX ix_tasks_limited ON tasks (tenant_id, limit_key, status, priority DESC, run_at, id) WHERE limit_key IS NOT NULL AND finished_at IS NULL

CREATE INDEX ix_tasks_breaker ON tasks (tenant_id, breaker, run_at) WHERE breaker IS NOT NULL AND status = 'pending'

CREATE TABLE limits (
    tenant_id UUID NOT NULL,
    key TEXT NOT NULL,
    source TEXT NOT NULL CONSTRAINT ck_limits_source CHECK (source IN ('api', 'definition')),
    max_running INTEGER,
    rate_count INTEGER,
    rate_ms BIGINT,
    burst INTEGER,
    tokens DOUBLE PRECISION,
    refilled_at TIMESTAMP WITH TIME ZONE,
    created_at TIMESTAMP WITH TIME ZONE NOT NULL,
    updated_at TIMESTAMP WITH TIME ZONE NOT NULL,
    updated_by TEXT NOT NULL,
    CONSTRAINT pk_limits PRIMARY KEY (tenant_id, key),
    CONSTRAINT ck_limits_max_running CHECK (max_running IS NULL OR max_running >= 0),
    CONSTRAINT ck_limits_rate CHECK ((rate_count IS NULL) = (rate_ms IS NULL) AND (rate_count IS NULL) = (burst IS NULL) AND (rate_count IS NULL) = (tokens IS NULL) AND (rate_count IS NULL) = (refilled_at IS NULL)),
    CONSTRAINT ck_limits_positive CHECK (rate_count > 0 AND rate_ms > 0 AND burst > 0),
    CONSTRAINT fk_limits_tenant_id_tenants FOREIGN KEY(tenant_id) REFERENCES tenants (id)
)
 WITH (fillfactor = 75)

CREATE INDEX ix_limits_types ON limits (tenant_id, key) WHERE substr(key, 1, 5) = 'type:'

CREATE TABLE breakers (
    tenant_id UUID NOT NULL,
    type TEXT NOT NULL,
    target TEXT NOT NULL,
    state TEXT NOT NULL CONSTRAINT ck_breakers_state CHECK (state IN ('closed', 'open', 'half_open')),
    forced BOOLEAN DEFAULT false NOT NULL,
    successes INTEGER DEFAULT '0' NOT NULL,
    failures INTEGER DEFAULT '0' NOT NULL,
    in_a_row INTEGER DEFAULT '0' NOT NULL,
    counted_from TIMESTAMP WITH TIME ZONE NOT NULL,
    opened_at TIMESTAMP WITH TIME ZONE,
    retry_at TIMESTAMP WITH TIME ZONE,
    probe_task_id UUID,
    probe_token UUID,
    last_error TEXT,
    updated_at TIMESTAMP WITH TIME ZONE NOT NULL,
    updated_by TEXT NOT NULL,
    CONSTRAINT pk_breakers PRIMARY KEY (tenant_id, type, target),
    CONSTRAINT ck_breakers_counts CHECK (successes >= 0 AND failures >= 0 AND in_a_row >= 0),
    CONSTRAINT ck_breakers_probe CHECK ((probe_token IS NULL) = (probe_task_id IS NULL)),
    CONSTRAINT fk_breakers_tenant_id_tenants FOREIGN KEY(tenant_id) REFERENCES tenants (id)
)
 WITH (fillfactor = 75)

DROP INDEX ix_tasks_due

CREATE INDEX ix_tasks_due ON tasks (tenant_id, type, coalesce(limit_key, ''), priority DESC, run_at, id) WHERE status = 'pending' AND NOT held AND NOT gated

DROP INDEX ix_inbox_ready

CREATE INDEX ix_inbox_ready ON inbox (tenant_id, id) WHERE NOT parked

CREATE INDEX ix_breakers_open ON breakers (retry_at) WHERE state <> 'closed'

CREATE INDEX ix_breakers_updated_at ON breakers (updated_at)
