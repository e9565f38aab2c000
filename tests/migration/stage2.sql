BEGIN TRANSACTION;
CREATE TABLE alembic_version (
	version_num VARCHAR(32) NOT NULL, 
	CONSTRAINT alembic_version_pkc PRIMARY KEY (version_num)
);
INSERT INTO "alembic_version" VALUES('0002');
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
INSERT INTO "alerts" VALUES(1,1,'log','churn version 1 has become worse','worse','pending',0,'2026-03-02 06:00:00.000000',NULL,NULL,'incident:1');
CREATE TABLE api_keys (
	name VARCHAR NOT NULL, 
	digest VARCHAR NOT NULL, 
	created_at VARCHAR(26) NOT NULL, 
	revoked_at VARCHAR(26), 
	CONSTRAINT pk_api_keys PRIMARY KEY (name), 
	CONSTRAINT uq_api_keys_digest UNIQUE (digest)
);
INSERT INTO "api_keys" VALUES('caller','431bdd24f608a409a928405942c27f14c333102cd9a92cfbd3b931066916d918','2026-03-01 00:00:00.000000',NULL);
INSERT INTO "api_keys" VALUES('former','ae6db55688fee66889ecce8549c5664e343899859597eec5b418d2ae9ae0ed96','2026-03-01 00:00:00.000000','2026-03-01 01:00:00.000000');
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
INSERT INTO "evaluations" VALUES(1,'churn','1','2026-03-01 00:00:00.000000','2026-03-02 00:00:00.000000','2026-03-02 06:00:00.000000',1,5,3,1);
CREATE TABLE fences (
	model VARCHAR NOT NULL, 
	asked_until VARCHAR(26) NOT NULL, 
	CONSTRAINT pk_fences PRIMARY KEY (model)
);
INSERT INTO "fences" VALUES('churn','2026-03-02 06:00:00.000000');
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
INSERT INTO "incidents" VALUES(1,'churn','1',1,'churn version 1 has become worse','2026-03-02 06:00:00.000000',NULL,NULL);
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
INSERT INTO "joins" VALUES('churn','2026-03-02 06:00:00.000000','{"horizon_seconds": null, "which": "all", "absent_means": null, "maturity_seconds": 86400.0, "segments": ["plan"], "length_seconds": 86400.0}');
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
INSERT INTO "label_accounts" VALUES('churn','2026-03-01 00:00:00.000000','1','champion','',5,2,'2026-03-01 07:00:00.000000');
INSERT INTO "label_accounts" VALUES('churn','2026-03-01 00:00:00.000000','1','champion','plan=pro',5,2,'2026-03-01 07:00:00.000000');
CREATE TABLE leases (
	name VARCHAR NOT NULL, 
	holder VARCHAR NOT NULL, 
	expires_at VARCHAR(26) NOT NULL, 
	CONSTRAINT pk_leases PRIMARY KEY (name)
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
INSERT INTO "metric_values" VALUES(1,'','accuracy',1.0,0.0,3);
CREATE TABLE models (
	name VARCHAR NOT NULL, 
	generation INTEGER NOT NULL, 
	columns JSON NOT NULL, 
	"key" JSON NOT NULL, 
	label JSON NOT NULL, 
	created_at VARCHAR(26) NOT NULL, 
	CONSTRAINT pk_models PRIMARY KEY (name, generation)
);
INSERT INTO "models" VALUES('churn',1,'[{"name": "customer", "type": "long", "required": false, "field": "customer"}, {"name": "month", "type": "string", "required": false, "field": "month"}, {"name": "prediction", "type": "boolean", "required": true, "field": "prediction"}, {"name": "probability", "type": "double", "required": true, "field": "probability"}, {"name": "age", "type": "double", "required": true, "field": "age"}, {"name": "plan", "type": "string", "required": true, "field": "plan"}]','[{"name": "customer", "type": "long", "required": false, "field": "customer"}, {"name": "month", "type": "string", "required": false, "field": "month"}]','{"name": "churned", "type": "boolean", "required": true, "field": "churned"}','2026-03-01 05:00:00.000000');
CREATE TABLE outcome_sources (
	model VARCHAR NOT NULL, 
	source VARCHAR NOT NULL, 
	watermark JSON NOT NULL, 
	taken_at VARCHAR(26) NOT NULL, 
	CONSTRAINT pk_outcome_sources PRIMARY KEY (model, source)
);
CREATE TABLE outcomes_churn (
	outcome_id INTEGER NOT NULL, 
	prediction_id VARCHAR(36), 
	customer BIGINT, 
	month VARCHAR, 
	event_at VARCHAR(26) NOT NULL, 
	occurred_at VARCHAR(26) NOT NULL, 
	recorded_at VARCHAR(26) NOT NULL, 
	revision INTEGER NOT NULL, 
	source VARCHAR NOT NULL, 
	churned BOOLEAN NOT NULL, 
	PRIMARY KEY (outcome_id)
);
INSERT INTO "outcomes_churn" VALUES(1,NULL,1,'m','1970-01-01 00:00:00.000000','2026-03-01 06:00:00.000000','2026-03-01 06:00:00.000000',1,'t',1);
INSERT INTO "outcomes_churn" VALUES(2,NULL,2,'m','1970-01-01 00:00:00.000000','2026-03-01 06:00:00.000000','2026-03-01 06:00:00.000000',1,'t',1);
INSERT INTO "outcomes_churn" VALUES(3,NULL,2,'m','1970-01-01 00:00:00.000000','2026-03-01 07:00:00.000000','2026-03-01 07:00:00.000000',2,'t',0);
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
CREATE TABLE predictions_churn (
	prediction_id VARCHAR(36) NOT NULL, 
	predicted_at VARCHAR(26) NOT NULL, 
	logged_at VARCHAR(26) NOT NULL, 
	sample_weight DOUBLE NOT NULL, 
	model_version VARCHAR NOT NULL, 
	role VARCHAR NOT NULL, 
	source VARCHAR NOT NULL, 
	request_id VARCHAR, 
	latency_us INTEGER, 
	customer BIGINT, 
	month VARCHAR, 
	prediction BOOLEAN, 
	probability DOUBLE, 
	age DOUBLE, 
	"plan" VARCHAR, 
	PRIMARY KEY (prediction_id)
);
INSERT INTO "predictions_churn" VALUES('019ca6b1-dc00-763b-bad9-16cb8c1de0f4','2026-03-01 00:00:00.000000','2026-03-01 05:00:00.000000',1.0,'1','champion','batch',NULL,NULL,1,'m',1,0.9,20.0,'pro');
INSERT INTO "predictions_churn" VALUES('019ca6e8-ca80-7ab8-be7e-cd7b4e9a2e3d','2026-03-01 01:00:00.000000','2026-03-01 05:00:00.000000',1.0,'1','champion','batch',NULL,NULL,2,'m',0,0.1,30.0,'pro');
INSERT INTO "predictions_churn" VALUES('019ca71f-b900-7b7d-af54-b0e01ac0f888','2026-03-01 02:00:00.000000','2026-03-01 05:00:00.000000',1.0,'1','champion','batch',NULL,NULL,3,'m',1,0.8,40.0,'pro');
INSERT INTO "predictions_churn" VALUES('019ca756-a780-79d0-b43d-0883d7f209b9','2026-03-01 03:00:00.000000','2026-03-01 05:00:00.000000',1.0,'1','champion','batch',NULL,NULL,4,'m',0,0.2,50.0,'pro');
INSERT INTO "predictions_churn" VALUES('019ca78d-9600-70d2-80ad-f836ae7fba54','2026-03-01 04:00:00.000000','2026-03-01 05:00:00.000000',1.0,'1','champion','batch',NULL,NULL,5,'m',1,0.7,60.0,'pro');
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
INSERT INTO "promotions" VALUES(1,'churn',1,'first',NULL,'1','done','first',NULL,'2026-03-01 00:00:00.000000','2026-03-01 00:00:00.000000');
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
INSERT INTO "spool_accounts" VALUES('s1','churn','host',5,5,5,0,0,0,0,0,NULL,'open','2026-03-01 05:00:00.000000');
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
INSERT INTO "verdicts" VALUES(1,'churn','1','2026-03-02 06:00:00.000000','2026-03-01 00:00:00.000000','2026-03-02 00:00:00.000000','degraded','worse','{}','{"state": null}');
CREATE INDEX ix_evaluations_model_as_of ON evaluations (model, as_of);
CREATE UNIQUE INDEX uq_incidents_open ON incidents (model) WHERE closed_at IS NULL;
CREATE INDEX ix_retrainings_model_started_at ON retrainings (model, started_at);
CREATE INDEX ix_payloads_received_at ON payloads (received_at);
CREATE INDEX ix_predictions_churn_logged_at ON predictions_churn (logged_at);
CREATE INDEX ix_predictions_churn_predicted_at ON predictions_churn (predicted_at);
CREATE INDEX ix_predictions_churn_key ON predictions_churn (customer, month);
CREATE INDEX ix_outcomes_churn_recorded_at ON outcomes_churn (recorded_at);
CREATE UNIQUE INDEX uq_outcomes_churn_prediction ON outcomes_churn (prediction_id, revision) WHERE prediction_id IS NOT NULL;
CREATE UNIQUE INDEX uq_outcomes_churn_key ON outcomes_churn (customer, month, event_at, revision) WHERE customer IS NOT NULL;
CREATE VIEW labelled_churn AS SELECT predictions_churn.prediction_id, predictions_churn.predicted_at, predictions_churn.logged_at, predictions_churn.sample_weight, predictions_churn.model_version, predictions_churn.role, predictions_churn.source, predictions_churn.request_id, predictions_churn.latency_us, predictions_churn.customer, predictions_churn.month, predictions_churn.prediction, predictions_churn.probability, predictions_churn.age, predictions_churn."plan", CASE WHEN (by_id.outcome_id IS NOT NULL) THEN by_id.occurred_at ELSE by_key.occurred_at END AS occurred_at, CASE WHEN (by_id.outcome_id IS NOT NULL) THEN by_id.recorded_at ELSE by_key.recorded_at END AS recorded_at, CASE WHEN (by_id.outcome_id IS NOT NULL) THEN by_id.revision ELSE by_key.revision END AS revision, CASE WHEN (by_id.outcome_id IS NOT NULL) THEN by_id.churned ELSE by_key.churned END AS churned, coalesce(by_id.churned != by_key.churned, 0) AS is_conflict 
FROM predictions_churn LEFT OUTER JOIN outcomes_churn AS by_id ON by_id.prediction_id = predictions_churn.prediction_id AND NOT (EXISTS (SELECT * 
FROM outcomes_churn AS outcomes_churn_1 
WHERE outcomes_churn_1.prediction_id = by_id.prediction_id AND (outcomes_churn_1.event_at, outcomes_churn_1.revision) > (by_id.event_at, by_id.revision))) LEFT OUTER JOIN outcomes_churn AS by_key ON by_key.customer = predictions_churn.customer AND by_key.month = predictions_churn.month AND NOT (EXISTS (SELECT * 
FROM outcomes_churn AS outcomes_churn_2 
WHERE outcomes_churn_2.customer = by_key.customer AND outcomes_churn_2.month = by_key.month AND (outcomes_churn_2.event_at, outcomes_churn_2.revision) > (by_key.event_at, by_key.revision)));
COMMIT;
