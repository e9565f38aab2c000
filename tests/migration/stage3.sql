BEGIN TRANSACTION;
CREATE TABLE alembic_version (
	version_num VARCHAR(32) NOT NULL, 
	CONSTRAINT alembic_version_pkc PRIMARY KEY (version_num)
);
INSERT INTO "alembic_version" VALUES('0003');
CREATE TABLE "alerts" (
	alert_id INTEGER NOT NULL, 
	incident_id INTEGER, 
	route VARCHAR NOT NULL, 
	title VARCHAR NOT NULL, 
	body TEXT NOT NULL, 
	state VARCHAR NOT NULL, 
	attempts INTEGER NOT NULL, 
	next_attempt_at VARCHAR(26) NOT NULL, 
	sent_at VARCHAR(26), 
	cause TEXT, 
	subject VARCHAR NOT NULL, 
	CONSTRAINT pk_alerts PRIMARY KEY (alert_id), 
	CONSTRAINT fk_alerts_incident_id FOREIGN KEY(incident_id) REFERENCES incidents (incident_id), 
	CONSTRAINT uq_alerts_subject_route UNIQUE (subject, route)
);
CREATE TABLE "api_keys" (
	name VARCHAR NOT NULL, 
	digest VARCHAR NOT NULL, 
	created_at VARCHAR(26) NOT NULL, 
	revoked_at VARCHAR(26), 
	scopes JSON NOT NULL, 
	CONSTRAINT pk_api_keys PRIMARY KEY (name), 
	CONSTRAINT uq_api_keys_digest UNIQUE (digest)
);
CREATE TABLE drift_values (
	evaluation_id INTEGER NOT NULL, 
	"column" VARCHAR NOT NULL, 
	method VARCHAR NOT NULL, 
	value DOUBLE NOT NULL, 
	threshold DOUBLE NOT NULL, 
	p_value DOUBLE NOT NULL, 
	drifted BOOLEAN NOT NULL, 
	rows INTEGER NOT NULL, 
	CONSTRAINT pk_drift_values PRIMARY KEY (evaluation_id, "column", method), 
	CONSTRAINT fk_drift_values_evaluation_id FOREIGN KEY(evaluation_id) REFERENCES evaluations (evaluation_id)
);
INSERT INTO "drift_values" VALUES(1,'age','wasserstein_normed',0.3,0.1,1.0e-09,1,500);
INSERT INTO "drift_values" VALUES(1,'plan','jensen_shannon',0.01,0.1,0.5,0,500);
CREATE TABLE erasures (
	model VARCHAR NOT NULL, 
	digest VARCHAR NOT NULL, 
	columns VARCHAR NOT NULL, 
	keyed_by VARCHAR NOT NULL, 
	erased_at VARCHAR(26) NOT NULL, 
	CONSTRAINT pk_erasures PRIMARY KEY (model, digest)
);
CREATE TABLE evaluations (
	evaluation_id INTEGER NOT NULL, 
	model VARCHAR NOT NULL, 
	version VARCHAR NOT NULL, 
	window_start VARCHAR(26) NOT NULL, 
	window_end VARCHAR(26) NOT NULL, 
	as_of VARCHAR(26) NOT NULL, 
	matured BOOLEAN NOT NULL, 
	predictions INTEGER NOT NULL, 
	labelled INTEGER NOT NULL, revision INTEGER DEFAULT '1' NOT NULL, 
	CONSTRAINT pk_evaluations PRIMARY KEY (evaluation_id), 
	CONSTRAINT uq_evaluations_model_version_window_start_window_end_as_of UNIQUE (model, version, window_start, window_end, as_of)
);
INSERT INTO "evaluations" VALUES(1,'churn','1','2026-03-01 00:00:00.000000','2026-03-02 00:00:00.000000','2026-03-03 00:00:00.000000',1,500,400,1);
CREATE TABLE fences (
	model VARCHAR NOT NULL, 
	asked_until VARCHAR(26) NOT NULL, 
	CONSTRAINT pk_fences PRIMARY KEY (model)
);
CREATE TABLE findings (
	model VARCHAR NOT NULL, 
	kind VARCHAR NOT NULL, 
	subject VARCHAR NOT NULL, 
	since VARCHAR(26) NOT NULL, 
	CONSTRAINT pk_findings PRIMARY KEY (model, kind, subject)
);
CREATE TABLE incidents (
	incident_id INTEGER NOT NULL, 
	model VARCHAR NOT NULL, 
	version VARCHAR NOT NULL, 
	verdict_id INTEGER NOT NULL, 
	title VARCHAR NOT NULL, 
	opened_at VARCHAR(26) NOT NULL, 
	closed_at VARCHAR(26), 
	closed_because VARCHAR, 
	CONSTRAINT pk_incidents PRIMARY KEY (incident_id), 
	CONSTRAINT fk_incidents_verdict_id FOREIGN KEY(verdict_id) REFERENCES verdicts (verdict_id)
);
CREATE TABLE job_runs (
	run_id INTEGER NOT NULL, 
	job VARCHAR NOT NULL, 
	model VARCHAR NOT NULL, 
	scheduled_at VARCHAR(26) NOT NULL, 
	started_at VARCHAR(26) NOT NULL, 
	finished_at VARCHAR(26), 
	holder VARCHAR NOT NULL, 
	state VARCHAR NOT NULL, 
	result JSON, 
	cause TEXT, 
	CONSTRAINT pk_job_runs PRIMARY KEY (run_id), 
	CONSTRAINT uq_job_runs_job_model_scheduled_at UNIQUE (job, model, scheduled_at)
);
CREATE TABLE joins (
	model VARCHAR NOT NULL, 
	watermark VARCHAR(26) NOT NULL, 
	rule JSON NOT NULL, 
	CONSTRAINT pk_joins PRIMARY KEY (model)
);
CREATE TABLE label_accounts (
	model VARCHAR NOT NULL, 
	bucket_start VARCHAR(26) NOT NULL, 
	version VARCHAR NOT NULL, 
	role VARCHAR NOT NULL, 
	segment VARCHAR NOT NULL, 
	predictions INTEGER NOT NULL, 
	labelled INTEGER NOT NULL, 
	changed_at VARCHAR(26) NOT NULL, 
	CONSTRAINT pk_label_accounts PRIMARY KEY (model, bucket_start, version, role, segment)
);
CREATE TABLE leases (
	name VARCHAR NOT NULL, 
	holder VARCHAR NOT NULL, 
	expires_at VARCHAR(26) NOT NULL, 
	CONSTRAINT pk_leases PRIMARY KEY (name)
);
CREATE TABLE load_incidents (
	model VARCHAR NOT NULL, 
	version VARCHAR NOT NULL, 
	cause TEXT NOT NULL, 
	opened_at VARCHAR(26) NOT NULL, 
	closed_at VARCHAR(26), 
	closed_because VARCHAR, 
	CONSTRAINT pk_load_incidents PRIMARY KEY (model, version)
);
CREATE TABLE metric_values (
	evaluation_id INTEGER NOT NULL, 
	segment VARCHAR NOT NULL, 
	metric VARCHAR NOT NULL, 
	value DOUBLE NOT NULL, 
	standard_error DOUBLE, 
	rows INTEGER NOT NULL, 
	CONSTRAINT pk_metric_values PRIMARY KEY (evaluation_id, segment, metric), 
	CONSTRAINT fk_metric_values_evaluation_id FOREIGN KEY(evaluation_id) REFERENCES evaluations (evaluation_id)
);
INSERT INTO "metric_values" VALUES(1,'','accuracy',0.8,0.02,400);
CREATE TABLE models (
	name VARCHAR NOT NULL, 
	generation INTEGER NOT NULL, 
	columns JSON NOT NULL, 
	"key" JSON NOT NULL, 
	label JSON NOT NULL, 
	created_at VARCHAR(26) NOT NULL, 
	CONSTRAINT pk_models PRIMARY KEY (name, generation)
);
CREATE TABLE outcome_sources (
	model VARCHAR NOT NULL, 
	source VARCHAR NOT NULL, 
	watermark JSON NOT NULL, 
	taken_at VARCHAR(26) NOT NULL, 
	CONSTRAINT pk_outcome_sources PRIMARY KEY (model, source)
);
CREATE TABLE payload_accounts (
	model VARCHAR NOT NULL, 
	logged BIGINT NOT NULL, 
	refused BIGINT NOT NULL, 
	expired BIGINT NOT NULL, 
	CONSTRAINT pk_payload_accounts PRIMARY KEY (model)
);
CREATE TABLE payloads (
	model VARCHAR NOT NULL, 
	event VARCHAR NOT NULL, 
	request BLOB, 
	answer BLOB, 
	content_type VARCHAR, 
	requested_at VARCHAR(26), 
	version VARCHAR, 
	received_at VARCHAR(26) NOT NULL, 
	done_at VARCHAR(26), 
	CONSTRAINT pk_payloads PRIMARY KEY (model, event)
);
CREATE TABLE profiles (
	model VARCHAR NOT NULL, 
	version VARCHAR NOT NULL, 
	kind VARCHAR NOT NULL, 
	segment VARCHAR NOT NULL, 
	bucket_start VARCHAR(26) NOT NULL, 
	bucket_end VARCHAR(26) NOT NULL, 
	rows INTEGER NOT NULL, 
	profile JSON NOT NULL, 
	CONSTRAINT pk_profiles PRIMARY KEY (model, version, kind, segment, bucket_start)
);
INSERT INTO "profiles" VALUES('churn','1','window','','2026-03-01 00:00:00.000000','2026-03-02 00:00:00.000000',500,'{"rows": 500}');
CREATE TABLE promotions (
	promotion_id INTEGER NOT NULL, 
	model VARCHAR NOT NULL, 
	ordinal INTEGER NOT NULL, 
	kind VARCHAR NOT NULL, 
	from_version VARCHAR, 
	to_version VARCHAR NOT NULL, 
	state VARCHAR NOT NULL, 
	reason TEXT NOT NULL, 
	retraining_id INTEGER, 
	intended_at VARCHAR(26) NOT NULL, 
	done_at VARCHAR(26), 
	CONSTRAINT pk_promotions PRIMARY KEY (promotion_id), 
	CONSTRAINT fk_promotions_retraining_id FOREIGN KEY(retraining_id) REFERENCES retrainings (retraining_id), 
	CONSTRAINT uq_promotions_model_ordinal UNIQUE (model, ordinal)
);
CREATE TABLE retentions (
	model VARCHAR NOT NULL, 
	kept_since VARCHAR(26) NOT NULL, 
	CONSTRAINT pk_retentions PRIMARY KEY (model)
);
CREATE TABLE retrainings (
	retraining_id INTEGER NOT NULL, 
	model VARCHAR NOT NULL, 
	reason VARCHAR NOT NULL, 
	incident_id INTEGER, 
	champion VARCHAR NOT NULL, 
	candidate VARCHAR, 
	state VARCHAR NOT NULL, 
	started_at VARCHAR(26) NOT NULL, 
	finished_at VARCHAR(26), 
	gate JSON, 
	cause TEXT, 
	CONSTRAINT pk_retrainings PRIMARY KEY (retraining_id), 
	CONSTRAINT fk_retrainings_incident_id FOREIGN KEY(incident_id) REFERENCES incidents (incident_id)
);
CREATE TABLE spool_accounts (
	spool VARCHAR NOT NULL, 
	model VARCHAR NOT NULL, 
	host VARCHAR NOT NULL, 
	answered BIGINT NOT NULL, 
	spooled BIGINT NOT NULL, 
	stored BIGINT NOT NULL, 
	refused BIGINT NOT NULL, 
	dropped BIGINT NOT NULL, 
	unsampled BIGINT NOT NULL, 
	waiting BIGINT NOT NULL, 
	rejected BIGINT NOT NULL, 
	waiting_since VARCHAR(26), 
	state VARCHAR NOT NULL, 
	updated_at VARCHAR(26) NOT NULL, 
	CONSTRAINT pk_spool_accounts PRIMARY KEY (spool, model)
);
CREATE TABLE traffic (
	model VARCHAR NOT NULL, 
	shadows JSON NOT NULL, 
	canary VARCHAR, 
	share DOUBLE NOT NULL, 
	changed_at VARCHAR(26) NOT NULL, 
	CONSTRAINT pk_traffic PRIMARY KEY (model)
);
CREATE TABLE trials (
	retraining_id INTEGER NOT NULL, 
	ordinal INTEGER NOT NULL, 
	name VARCHAR NOT NULL, 
	trained_from VARCHAR(26) NOT NULL, 
	trained_until VARCHAR(26) NOT NULL, 
	rows INTEGER NOT NULL, 
	loss DOUBLE, 
	chosen BOOLEAN NOT NULL, 
	cause TEXT, 
	CONSTRAINT pk_trials PRIMARY KEY (retraining_id, ordinal), 
	CONSTRAINT fk_trials_retraining_id FOREIGN KEY(retraining_id) REFERENCES retrainings (retraining_id)
);
CREATE TABLE verdicts (
	verdict_id INTEGER NOT NULL, 
	model VARCHAR NOT NULL, 
	version VARCHAR NOT NULL, 
	decided_at VARCHAR(26) NOT NULL, 
	window_start VARCHAR(26) NOT NULL, 
	window_end VARCHAR(26) NOT NULL, 
	state VARCHAR NOT NULL, 
	summary TEXT NOT NULL, 
	evidence JSON NOT NULL, 
	monitor JSON NOT NULL, 
	CONSTRAINT pk_verdicts PRIMARY KEY (verdict_id), 
	CONSTRAINT uq_verdicts_model_version_window_end UNIQUE (model, version, window_end)
);
CREATE INDEX ix_evaluations_model_as_of ON evaluations (model, as_of);
CREATE UNIQUE INDEX uq_incidents_open ON incidents (model) WHERE closed_at IS NULL;
CREATE INDEX ix_retrainings_model_started_at ON retrainings (model, started_at);
CREATE INDEX ix_payloads_received_at ON payloads (received_at);
COMMIT;
