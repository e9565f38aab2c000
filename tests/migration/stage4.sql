BEGIN TRANSACTION;
CREATE TABLE alembic_version (
	version_num VARCHAR(32) NOT NULL, 
	CONSTRAINT alembic_version_pkc PRIMARY KEY (version_num)
);
INSERT INTO "alembic_version" VALUES('0005');
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
INSERT INTO "alerts" VALUES(1,1,'log','churn version 1 has become worse','brier 0.1528 on its reference, 0.6400 on 60 labelled predictions since 2026-03-01, 0.6400 lately. A model that had not changed would ever show as much once in more than a million times.','sent',1,'2026-03-04 00:00:00.000000','2026-03-04 00:00:00.000000',NULL,'incident:1');
INSERT INTO "alerts" VALUES(2,1,'ops','churn version 1 has become worse','brier 0.1528 on its reference, 0.6400 on 60 labelled predictions since 2026-03-01, 0.6400 lately. A model that had not changed would ever show as much once in more than a million times.','pending',2,'2026-03-04 00:03:00.000000',NULL,'503','incident:1');
CREATE TABLE "api_keys" (
	name VARCHAR NOT NULL, 
	digest VARCHAR NOT NULL, 
	created_at VARCHAR(26) NOT NULL, 
	revoked_at VARCHAR(26), 
	scopes JSON NOT NULL, 
	CONSTRAINT pk_api_keys PRIMARY KEY (name), 
	CONSTRAINT uq_api_keys_digest UNIQUE (digest)
);
CREATE TABLE drift_monitors (
	model VARCHAR NOT NULL, 
	version VARCHAR NOT NULL, 
	until VARCHAR(26) NOT NULL, 
	state JSON NOT NULL, 
	CONSTRAINT pk_drift_monitors PRIMARY KEY (model, version)
);
CREATE TABLE "drift_values" (
	evaluation_id INTEGER NOT NULL, 
	"column" VARCHAR NOT NULL, 
	method VARCHAR NOT NULL, 
	value DOUBLE NOT NULL, 
	threshold DOUBLE NOT NULL, 
	p_value DOUBLE, 
	drifted BOOLEAN NOT NULL, 
	rows INTEGER NOT NULL, 
	binning VARCHAR NOT NULL, 
	decides BOOLEAN NOT NULL, 
	is_default BOOLEAN NOT NULL, 
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
CREATE TABLE estimate_values (
	evaluation_id INTEGER NOT NULL, 
	metric VARCHAR NOT NULL, 
	segment VARCHAR NOT NULL, 
	method VARCHAR NOT NULL, 
	value DOUBLE NOT NULL, 
	standard_error DOUBLE, 
	rows INTEGER NOT NULL, 
	calibrated_on INTEGER NOT NULL, 
	CONSTRAINT pk_estimate_values PRIMARY KEY (evaluation_id, metric, segment), 
	CONSTRAINT fk_estimate_values_evaluation_id FOREIGN KEY(evaluation_id) REFERENCES evaluations (evaluation_id)
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
INSERT INTO "incidents" VALUES(1,'churn','1',1,'churn version 1 has become worse','2026-03-04 00:00:00.000000',NULL,NULL);
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
	rows INTEGER NOT NULL, coverage DOUBLE, least DOUBLE, most DOUBLE, 
	CONSTRAINT pk_metric_values PRIMARY KEY (evaluation_id, segment, metric), 
	CONSTRAINT fk_metric_values_evaluation_id FOREIGN KEY(evaluation_id) REFERENCES evaluations (evaluation_id)
);
CREATE TABLE models (
	name VARCHAR NOT NULL, 
	generation INTEGER NOT NULL, 
	columns JSON NOT NULL, 
	"key" JSON NOT NULL, 
	label JSON NOT NULL, 
	created_at VARCHAR(26) NOT NULL, 
	CONSTRAINT pk_models PRIMARY KEY (name, generation)
);
INSERT INTO "models" VALUES('churn',1,'[{"name": "customer", "type": "long", "required": false, "field": "customer"}, {"name": "month", "type": "string", "required": false, "field": "month"}, {"name": "prediction", "type": "boolean", "required": true, "field": "prediction"}, {"name": "probability", "type": "double", "required": true, "field": "probability"}, {"name": "age", "type": "double", "required": true, "field": "age"}, {"name": "plan", "type": "string", "required": true, "field": "plan"}]','[{"name": "customer", "type": "long", "required": false, "field": "customer"}, {"name": "month", "type": "string", "required": false, "field": "month"}]','{"name": "churned", "type": "boolean", "required": true, "field": "churned"}','2026-03-01 20:00:00.000000');
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
INSERT INTO "outcomes_churn" VALUES(1,NULL,0,'m','1970-01-01 00:00:00.000000','2026-03-02 06:00:00.000000','2026-03-02 06:00:00.000000',1,'t',0);
INSERT INTO "outcomes_churn" VALUES(2,NULL,1,'m','1970-01-01 00:00:00.000000','2026-03-02 06:00:00.000000','2026-03-02 06:00:00.000000',1,'t',0);
INSERT INTO "outcomes_churn" VALUES(3,NULL,2,'m','1970-01-01 00:00:00.000000','2026-03-02 06:00:00.000000','2026-03-02 06:00:00.000000',1,'t',0);
INSERT INTO "outcomes_churn" VALUES(4,NULL,3,'m','1970-01-01 00:00:00.000000','2026-03-02 06:00:00.000000','2026-03-02 06:00:00.000000',1,'t',0);
INSERT INTO "outcomes_churn" VALUES(5,NULL,4,'m','1970-01-01 00:00:00.000000','2026-03-02 06:00:00.000000','2026-03-02 06:00:00.000000',1,'t',0);
INSERT INTO "outcomes_churn" VALUES(6,NULL,5,'m','1970-01-01 00:00:00.000000','2026-03-02 06:00:00.000000','2026-03-02 06:00:00.000000',1,'t',0);
INSERT INTO "outcomes_churn" VALUES(7,NULL,6,'m','1970-01-01 00:00:00.000000','2026-03-02 06:00:00.000000','2026-03-02 06:00:00.000000',1,'t',0);
INSERT INTO "outcomes_churn" VALUES(8,NULL,7,'m','1970-01-01 00:00:00.000000','2026-03-02 06:00:00.000000','2026-03-02 06:00:00.000000',1,'t',0);
INSERT INTO "outcomes_churn" VALUES(9,NULL,8,'m','1970-01-01 00:00:00.000000','2026-03-02 06:00:00.000000','2026-03-02 06:00:00.000000',1,'t',0);
INSERT INTO "outcomes_churn" VALUES(10,NULL,9,'m','1970-01-01 00:00:00.000000','2026-03-02 06:00:00.000000','2026-03-02 06:00:00.000000',1,'t',0);
INSERT INTO "outcomes_churn" VALUES(11,NULL,10,'m','1970-01-01 00:00:00.000000','2026-03-02 06:00:00.000000','2026-03-02 06:00:00.000000',1,'t',0);
INSERT INTO "outcomes_churn" VALUES(12,NULL,11,'m','1970-01-01 00:00:00.000000','2026-03-02 06:00:00.000000','2026-03-02 06:00:00.000000',1,'t',0);
INSERT INTO "outcomes_churn" VALUES(13,NULL,12,'m','1970-01-01 00:00:00.000000','2026-03-02 06:00:00.000000','2026-03-02 06:00:00.000000',1,'t',0);
INSERT INTO "outcomes_churn" VALUES(14,NULL,13,'m','1970-01-01 00:00:00.000000','2026-03-02 06:00:00.000000','2026-03-02 06:00:00.000000',1,'t',0);
INSERT INTO "outcomes_churn" VALUES(15,NULL,14,'m','1970-01-01 00:00:00.000000','2026-03-02 06:00:00.000000','2026-03-02 06:00:00.000000',1,'t',0);
INSERT INTO "outcomes_churn" VALUES(16,NULL,15,'m','1970-01-01 00:00:00.000000','2026-03-02 06:00:00.000000','2026-03-02 06:00:00.000000',1,'t',0);
INSERT INTO "outcomes_churn" VALUES(17,NULL,16,'m','1970-01-01 00:00:00.000000','2026-03-02 06:00:00.000000','2026-03-02 06:00:00.000000',1,'t',0);
INSERT INTO "outcomes_churn" VALUES(18,NULL,17,'m','1970-01-01 00:00:00.000000','2026-03-02 06:00:00.000000','2026-03-02 06:00:00.000000',1,'t',0);
INSERT INTO "outcomes_churn" VALUES(19,NULL,18,'m','1970-01-01 00:00:00.000000','2026-03-02 06:00:00.000000','2026-03-02 06:00:00.000000',1,'t',0);
INSERT INTO "outcomes_churn" VALUES(20,NULL,19,'m','1970-01-01 00:00:00.000000','2026-03-02 06:00:00.000000','2026-03-02 06:00:00.000000',1,'t',0);
INSERT INTO "outcomes_churn" VALUES(21,NULL,20,'m','1970-01-01 00:00:00.000000','2026-03-02 06:00:00.000000','2026-03-02 06:00:00.000000',1,'t',0);
INSERT INTO "outcomes_churn" VALUES(22,NULL,21,'m','1970-01-01 00:00:00.000000','2026-03-02 06:00:00.000000','2026-03-02 06:00:00.000000',1,'t',0);
INSERT INTO "outcomes_churn" VALUES(23,NULL,22,'m','1970-01-01 00:00:00.000000','2026-03-02 06:00:00.000000','2026-03-02 06:00:00.000000',1,'t',0);
INSERT INTO "outcomes_churn" VALUES(24,NULL,23,'m','1970-01-01 00:00:00.000000','2026-03-02 06:00:00.000000','2026-03-02 06:00:00.000000',1,'t',0);
INSERT INTO "outcomes_churn" VALUES(25,NULL,24,'m','1970-01-01 00:00:00.000000','2026-03-02 06:00:00.000000','2026-03-02 06:00:00.000000',1,'t',0);
INSERT INTO "outcomes_churn" VALUES(26,NULL,25,'m','1970-01-01 00:00:00.000000','2026-03-02 06:00:00.000000','2026-03-02 06:00:00.000000',1,'t',0);
INSERT INTO "outcomes_churn" VALUES(27,NULL,26,'m','1970-01-01 00:00:00.000000','2026-03-02 06:00:00.000000','2026-03-02 06:00:00.000000',1,'t',0);
INSERT INTO "outcomes_churn" VALUES(28,NULL,27,'m','1970-01-01 00:00:00.000000','2026-03-02 06:00:00.000000','2026-03-02 06:00:00.000000',1,'t',0);
INSERT INTO "outcomes_churn" VALUES(29,NULL,28,'m','1970-01-01 00:00:00.000000','2026-03-02 06:00:00.000000','2026-03-02 06:00:00.000000',1,'t',0);
INSERT INTO "outcomes_churn" VALUES(30,NULL,29,'m','1970-01-01 00:00:00.000000','2026-03-02 06:00:00.000000','2026-03-02 06:00:00.000000',1,'t',0);
INSERT INTO "outcomes_churn" VALUES(31,NULL,30,'m','1970-01-01 00:00:00.000000','2026-03-02 06:00:00.000000','2026-03-02 06:00:00.000000',1,'t',0);
INSERT INTO "outcomes_churn" VALUES(32,NULL,31,'m','1970-01-01 00:00:00.000000','2026-03-02 06:00:00.000000','2026-03-02 06:00:00.000000',1,'t',0);
INSERT INTO "outcomes_churn" VALUES(33,NULL,32,'m','1970-01-01 00:00:00.000000','2026-03-02 06:00:00.000000','2026-03-02 06:00:00.000000',1,'t',0);
INSERT INTO "outcomes_churn" VALUES(34,NULL,33,'m','1970-01-01 00:00:00.000000','2026-03-02 06:00:00.000000','2026-03-02 06:00:00.000000',1,'t',0);
INSERT INTO "outcomes_churn" VALUES(35,NULL,34,'m','1970-01-01 00:00:00.000000','2026-03-02 06:00:00.000000','2026-03-02 06:00:00.000000',1,'t',0);
INSERT INTO "outcomes_churn" VALUES(36,NULL,35,'m','1970-01-01 00:00:00.000000','2026-03-02 06:00:00.000000','2026-03-02 06:00:00.000000',1,'t',0);
INSERT INTO "outcomes_churn" VALUES(37,NULL,36,'m','1970-01-01 00:00:00.000000','2026-03-02 06:00:00.000000','2026-03-02 06:00:00.000000',1,'t',0);
INSERT INTO "outcomes_churn" VALUES(38,NULL,37,'m','1970-01-01 00:00:00.000000','2026-03-02 06:00:00.000000','2026-03-02 06:00:00.000000',1,'t',0);
INSERT INTO "outcomes_churn" VALUES(39,NULL,38,'m','1970-01-01 00:00:00.000000','2026-03-02 06:00:00.000000','2026-03-02 06:00:00.000000',1,'t',0);
INSERT INTO "outcomes_churn" VALUES(40,NULL,39,'m','1970-01-01 00:00:00.000000','2026-03-02 06:00:00.000000','2026-03-02 06:00:00.000000',1,'t',0);
INSERT INTO "outcomes_churn" VALUES(41,NULL,40,'m','1970-01-01 00:00:00.000000','2026-03-02 06:00:00.000000','2026-03-02 06:00:00.000000',1,'t',0);
INSERT INTO "outcomes_churn" VALUES(42,NULL,41,'m','1970-01-01 00:00:00.000000','2026-03-02 06:00:00.000000','2026-03-02 06:00:00.000000',1,'t',0);
INSERT INTO "outcomes_churn" VALUES(43,NULL,42,'m','1970-01-01 00:00:00.000000','2026-03-02 06:00:00.000000','2026-03-02 06:00:00.000000',1,'t',0);
INSERT INTO "outcomes_churn" VALUES(44,NULL,43,'m','1970-01-01 00:00:00.000000','2026-03-02 06:00:00.000000','2026-03-02 06:00:00.000000',1,'t',0);
INSERT INTO "outcomes_churn" VALUES(45,NULL,44,'m','1970-01-01 00:00:00.000000','2026-03-02 06:00:00.000000','2026-03-02 06:00:00.000000',1,'t',0);
INSERT INTO "outcomes_churn" VALUES(46,NULL,45,'m','1970-01-01 00:00:00.000000','2026-03-02 06:00:00.000000','2026-03-02 06:00:00.000000',1,'t',0);
INSERT INTO "outcomes_churn" VALUES(47,NULL,46,'m','1970-01-01 00:00:00.000000','2026-03-02 06:00:00.000000','2026-03-02 06:00:00.000000',1,'t',0);
INSERT INTO "outcomes_churn" VALUES(48,NULL,47,'m','1970-01-01 00:00:00.000000','2026-03-02 06:00:00.000000','2026-03-02 06:00:00.000000',1,'t',0);
INSERT INTO "outcomes_churn" VALUES(49,NULL,48,'m','1970-01-01 00:00:00.000000','2026-03-02 06:00:00.000000','2026-03-02 06:00:00.000000',1,'t',0);
INSERT INTO "outcomes_churn" VALUES(50,NULL,49,'m','1970-01-01 00:00:00.000000','2026-03-02 06:00:00.000000','2026-03-02 06:00:00.000000',1,'t',0);
INSERT INTO "outcomes_churn" VALUES(51,NULL,50,'m','1970-01-01 00:00:00.000000','2026-03-02 06:00:00.000000','2026-03-02 06:00:00.000000',1,'t',0);
INSERT INTO "outcomes_churn" VALUES(52,NULL,51,'m','1970-01-01 00:00:00.000000','2026-03-02 06:00:00.000000','2026-03-02 06:00:00.000000',1,'t',0);
INSERT INTO "outcomes_churn" VALUES(53,NULL,52,'m','1970-01-01 00:00:00.000000','2026-03-02 06:00:00.000000','2026-03-02 06:00:00.000000',1,'t',0);
INSERT INTO "outcomes_churn" VALUES(54,NULL,53,'m','1970-01-01 00:00:00.000000','2026-03-02 06:00:00.000000','2026-03-02 06:00:00.000000',1,'t',0);
INSERT INTO "outcomes_churn" VALUES(55,NULL,54,'m','1970-01-01 00:00:00.000000','2026-03-02 06:00:00.000000','2026-03-02 06:00:00.000000',1,'t',0);
INSERT INTO "outcomes_churn" VALUES(56,NULL,55,'m','1970-01-01 00:00:00.000000','2026-03-02 06:00:00.000000','2026-03-02 06:00:00.000000',1,'t',0);
INSERT INTO "outcomes_churn" VALUES(57,NULL,56,'m','1970-01-01 00:00:00.000000','2026-03-02 06:00:00.000000','2026-03-02 06:00:00.000000',1,'t',0);
INSERT INTO "outcomes_churn" VALUES(58,NULL,57,'m','1970-01-01 00:00:00.000000','2026-03-02 06:00:00.000000','2026-03-02 06:00:00.000000',1,'t',0);
INSERT INTO "outcomes_churn" VALUES(59,NULL,58,'m','1970-01-01 00:00:00.000000','2026-03-02 06:00:00.000000','2026-03-02 06:00:00.000000',1,'t',0);
INSERT INTO "outcomes_churn" VALUES(60,NULL,59,'m','1970-01-01 00:00:00.000000','2026-03-02 06:00:00.000000','2026-03-02 06:00:00.000000',1,'t',0);
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
INSERT INTO "predictions_churn" VALUES('019ca6b1-dc00-75ed-aef4-b0c1a3d90505','2026-03-01 00:00:00.000000','2026-03-01 20:00:00.000000',1.0,'1','champion','batch',NULL,NULL,0,'m',1,0.8,20.0,'pro');
INSERT INTO "predictions_churn" VALUES('019ca6c4-2b80-7148-995e-8fab6a8ef1e8','2026-03-01 00:20:00.000000','2026-03-01 20:00:00.000000',1.0,'1','champion','batch',NULL,NULL,1,'m',1,0.8,21.0,'pro');
INSERT INTO "predictions_churn" VALUES('019ca6d6-7b00-7efe-aa5d-1c2d434f0881','2026-03-01 00:40:00.000000','2026-03-01 20:00:00.000000',1.0,'1','champion','batch',NULL,NULL,2,'m',1,0.8,22.0,'pro');
INSERT INTO "predictions_churn" VALUES('019ca6e8-ca80-7870-9e4c-1529e29aec90','2026-03-01 01:00:00.000000','2026-03-01 20:00:00.000000',1.0,'1','champion','batch',NULL,NULL,3,'m',1,0.8,23.0,'pro');
INSERT INTO "predictions_churn" VALUES('019ca6fb-1a00-78e4-b370-db76959e5ee6','2026-03-01 01:20:00.000000','2026-03-01 20:00:00.000000',1.0,'1','champion','batch',NULL,NULL,4,'m',1,0.8,24.0,'pro');
INSERT INTO "predictions_churn" VALUES('019ca70d-6980-7375-a099-80d04d612b0d','2026-03-01 01:40:00.000000','2026-03-01 20:00:00.000000',1.0,'1','champion','batch',NULL,NULL,5,'m',1,0.8,25.0,'pro');
INSERT INTO "predictions_churn" VALUES('019ca71f-b900-7a42-ab76-5170af2e337b','2026-03-01 02:00:00.000000','2026-03-01 20:00:00.000000',1.0,'1','champion','batch',NULL,NULL,6,'m',1,0.8,26.0,'pro');
INSERT INTO "predictions_churn" VALUES('019ca732-0880-7ba2-b62a-a40583ab86cd','2026-03-01 02:20:00.000000','2026-03-01 20:00:00.000000',1.0,'1','champion','batch',NULL,NULL,7,'m',1,0.8,27.0,'pro');
INSERT INTO "predictions_churn" VALUES('019ca744-5800-746e-83bc-dfc68c147fb8','2026-03-01 02:40:00.000000','2026-03-01 20:00:00.000000',1.0,'1','champion','batch',NULL,NULL,8,'m',1,0.8,28.0,'pro');
INSERT INTO "predictions_churn" VALUES('019ca756-a780-77d0-aaff-4bb29ed0cb9e','2026-03-01 03:00:00.000000','2026-03-01 20:00:00.000000',1.0,'1','champion','batch',NULL,NULL,9,'m',1,0.8,29.0,'pro');
INSERT INTO "predictions_churn" VALUES('019ca768-f700-7c55-a7e4-371d31a5b4fd','2026-03-01 03:20:00.000000','2026-03-01 20:00:00.000000',1.0,'1','champion','batch',NULL,NULL,10,'m',1,0.8,30.0,'pro');
INSERT INTO "predictions_churn" VALUES('019ca77b-4680-7dcb-937c-9b79b59b9d32','2026-03-01 03:40:00.000000','2026-03-01 20:00:00.000000',1.0,'1','champion','batch',NULL,NULL,11,'m',1,0.8,31.0,'pro');
INSERT INTO "predictions_churn" VALUES('019ca78d-9600-73f9-a6fe-a7dd920fef84','2026-03-01 04:00:00.000000','2026-03-01 20:00:00.000000',1.0,'1','champion','batch',NULL,NULL,12,'m',1,0.8,32.0,'pro');
INSERT INTO "predictions_churn" VALUES('019ca79f-e580-7db0-9cfd-34cda08965f9','2026-03-01 04:20:00.000000','2026-03-01 20:00:00.000000',1.0,'1','champion','batch',NULL,NULL,13,'m',1,0.8,33.0,'pro');
INSERT INTO "predictions_churn" VALUES('019ca7b2-3500-7d06-a458-f6857c4920ab','2026-03-01 04:40:00.000000','2026-03-01 20:00:00.000000',1.0,'1','champion','batch',NULL,NULL,14,'m',1,0.8,34.0,'pro');
INSERT INTO "predictions_churn" VALUES('019ca7c4-8480-7ab2-84f4-e743faa42bba','2026-03-01 05:00:00.000000','2026-03-01 20:00:00.000000',1.0,'1','champion','batch',NULL,NULL,15,'m',1,0.8,35.0,'pro');
INSERT INTO "predictions_churn" VALUES('019ca7d6-d400-7b51-a6d8-385e4c9a548a','2026-03-01 05:20:00.000000','2026-03-01 20:00:00.000000',1.0,'1','champion','batch',NULL,NULL,16,'m',1,0.8,36.0,'pro');
INSERT INTO "predictions_churn" VALUES('019ca7e9-2380-7597-a094-aa022fc7dc65','2026-03-01 05:40:00.000000','2026-03-01 20:00:00.000000',1.0,'1','champion','batch',NULL,NULL,17,'m',1,0.8,37.0,'pro');
INSERT INTO "predictions_churn" VALUES('019ca7fb-7300-71e4-ad17-c61c6b4698ae','2026-03-01 06:00:00.000000','2026-03-01 20:00:00.000000',1.0,'1','champion','batch',NULL,NULL,18,'m',1,0.8,38.0,'pro');
INSERT INTO "predictions_churn" VALUES('019ca80d-c280-755d-9253-17649e6a5698','2026-03-01 06:20:00.000000','2026-03-01 20:00:00.000000',1.0,'1','champion','batch',NULL,NULL,19,'m',1,0.8,39.0,'pro');
INSERT INTO "predictions_churn" VALUES('019ca820-1200-7bfc-99e3-42635ac45956','2026-03-01 06:40:00.000000','2026-03-01 20:00:00.000000',1.0,'1','champion','batch',NULL,NULL,20,'m',1,0.8,40.0,'pro');
INSERT INTO "predictions_churn" VALUES('019ca832-6180-7e20-a3aa-2f47b9a0a000','2026-03-01 07:00:00.000000','2026-03-01 20:00:00.000000',1.0,'1','champion','batch',NULL,NULL,21,'m',1,0.8,41.0,'pro');
INSERT INTO "predictions_churn" VALUES('019ca844-b100-7f77-a6c2-dfb3e5d2717a','2026-03-01 07:20:00.000000','2026-03-01 20:00:00.000000',1.0,'1','champion','batch',NULL,NULL,22,'m',1,0.8,42.0,'pro');
INSERT INTO "predictions_churn" VALUES('019ca857-0080-74d0-be1e-e7ddd8689ae1','2026-03-01 07:40:00.000000','2026-03-01 20:00:00.000000',1.0,'1','champion','batch',NULL,NULL,23,'m',1,0.8,43.0,'pro');
INSERT INTO "predictions_churn" VALUES('019ca869-5000-7e0d-a3d8-5aadb881a95c','2026-03-01 08:00:00.000000','2026-03-01 20:00:00.000000',1.0,'1','champion','batch',NULL,NULL,24,'m',1,0.8,44.0,'pro');
INSERT INTO "predictions_churn" VALUES('019ca87b-9f80-77e4-bdd0-9dc09e31a053','2026-03-01 08:20:00.000000','2026-03-01 20:00:00.000000',1.0,'1','champion','batch',NULL,NULL,25,'m',1,0.8,45.0,'pro');
INSERT INTO "predictions_churn" VALUES('019ca88d-ef00-798f-82e5-8dfcb88a1dfd','2026-03-01 08:40:00.000000','2026-03-01 20:00:00.000000',1.0,'1','champion','batch',NULL,NULL,26,'m',1,0.8,46.0,'pro');
INSERT INTO "predictions_churn" VALUES('019ca8a0-3e80-7e1e-977c-c287d41c3a2c','2026-03-01 09:00:00.000000','2026-03-01 20:00:00.000000',1.0,'1','champion','batch',NULL,NULL,27,'m',1,0.8,47.0,'pro');
INSERT INTO "predictions_churn" VALUES('019ca8b2-8e00-743c-8fa8-f313a0548bc4','2026-03-01 09:20:00.000000','2026-03-01 20:00:00.000000',1.0,'1','champion','batch',NULL,NULL,28,'m',1,0.8,48.0,'pro');
INSERT INTO "predictions_churn" VALUES('019ca8c4-dd80-73dd-bbde-f61a831b3ac3','2026-03-01 09:40:00.000000','2026-03-01 20:00:00.000000',1.0,'1','champion','batch',NULL,NULL,29,'m',1,0.8,49.0,'pro');
INSERT INTO "predictions_churn" VALUES('019ca8d7-2d00-7b47-a4cc-8a38e0c77a3b','2026-03-01 10:00:00.000000','2026-03-01 20:00:00.000000',1.0,'1','champion','batch',NULL,NULL,30,'m',1,0.8,50.0,'pro');
INSERT INTO "predictions_churn" VALUES('019ca8e9-7c80-7e5a-929f-87c841c4b4e6','2026-03-01 10:20:00.000000','2026-03-01 20:00:00.000000',1.0,'1','champion','batch',NULL,NULL,31,'m',1,0.8,51.0,'pro');
INSERT INTO "predictions_churn" VALUES('019ca8fb-cc00-7517-adde-2b6ab5ff1b77','2026-03-01 10:40:00.000000','2026-03-01 20:00:00.000000',1.0,'1','champion','batch',NULL,NULL,32,'m',1,0.8,52.0,'pro');
INSERT INTO "predictions_churn" VALUES('019ca90e-1b80-7e5f-97cc-de04d0469b88','2026-03-01 11:00:00.000000','2026-03-01 20:00:00.000000',1.0,'1','champion','batch',NULL,NULL,33,'m',1,0.8,53.0,'pro');
INSERT INTO "predictions_churn" VALUES('019ca920-6b00-777f-ac43-6922b39358ec','2026-03-01 11:20:00.000000','2026-03-01 20:00:00.000000',1.0,'1','champion','batch',NULL,NULL,34,'m',1,0.8,54.0,'pro');
INSERT INTO "predictions_churn" VALUES('019ca932-ba80-77f9-85be-fa53bd443269','2026-03-01 11:40:00.000000','2026-03-01 20:00:00.000000',1.0,'1','champion','batch',NULL,NULL,35,'m',1,0.8,55.0,'pro');
INSERT INTO "predictions_churn" VALUES('019ca945-0a00-7315-833f-0ade71d34891','2026-03-01 12:00:00.000000','2026-03-01 20:00:00.000000',1.0,'1','champion','batch',NULL,NULL,36,'m',1,0.8,56.0,'pro');
INSERT INTO "predictions_churn" VALUES('019ca957-5980-799a-a0c4-94257487cd56','2026-03-01 12:20:00.000000','2026-03-01 20:00:00.000000',1.0,'1','champion','batch',NULL,NULL,37,'m',1,0.8,57.0,'pro');
INSERT INTO "predictions_churn" VALUES('019ca969-a900-7909-ab30-1b872612380b','2026-03-01 12:40:00.000000','2026-03-01 20:00:00.000000',1.0,'1','champion','batch',NULL,NULL,38,'m',1,0.8,58.0,'pro');
INSERT INTO "predictions_churn" VALUES('019ca97b-f880-73f5-beb9-7f75139d7e99','2026-03-01 13:00:00.000000','2026-03-01 20:00:00.000000',1.0,'1','champion','batch',NULL,NULL,39,'m',1,0.8,59.0,'pro');
INSERT INTO "predictions_churn" VALUES('019ca98e-4800-787b-a558-65a22088648b','2026-03-01 13:20:00.000000','2026-03-01 20:00:00.000000',1.0,'1','champion','batch',NULL,NULL,40,'m',1,0.8,60.0,'pro');
INSERT INTO "predictions_churn" VALUES('019ca9a0-9780-7f17-95d8-fdb7a6fb5a2c','2026-03-01 13:40:00.000000','2026-03-01 20:00:00.000000',1.0,'1','champion','batch',NULL,NULL,41,'m',1,0.8,61.0,'pro');
INSERT INTO "predictions_churn" VALUES('019ca9b2-e700-723c-8efa-716620f54a7f','2026-03-01 14:00:00.000000','2026-03-01 20:00:00.000000',1.0,'1','champion','batch',NULL,NULL,42,'m',1,0.8,62.0,'pro');
INSERT INTO "predictions_churn" VALUES('019ca9c5-3680-7661-a927-8bda182d1b3b','2026-03-01 14:20:00.000000','2026-03-01 20:00:00.000000',1.0,'1','champion','batch',NULL,NULL,43,'m',1,0.8,63.0,'pro');
INSERT INTO "predictions_churn" VALUES('019ca9d7-8600-7846-89a6-31c388fba96a','2026-03-01 14:40:00.000000','2026-03-01 20:00:00.000000',1.0,'1','champion','batch',NULL,NULL,44,'m',1,0.8,64.0,'pro');
INSERT INTO "predictions_churn" VALUES('019ca9e9-d580-7562-8387-42b172b51b9b','2026-03-01 15:00:00.000000','2026-03-01 20:00:00.000000',1.0,'1','champion','batch',NULL,NULL,45,'m',1,0.8,65.0,'pro');
INSERT INTO "predictions_churn" VALUES('019ca9fc-2500-77ef-9408-8d77039a9ec9','2026-03-01 15:20:00.000000','2026-03-01 20:00:00.000000',1.0,'1','champion','batch',NULL,NULL,46,'m',1,0.8,66.0,'pro');
INSERT INTO "predictions_churn" VALUES('019caa0e-7480-7c59-bd84-fe5cf4871ce5','2026-03-01 15:40:00.000000','2026-03-01 20:00:00.000000',1.0,'1','champion','batch',NULL,NULL,47,'m',1,0.8,67.0,'pro');
INSERT INTO "predictions_churn" VALUES('019caa20-c400-78c8-9689-14adc153a43f','2026-03-01 16:00:00.000000','2026-03-01 20:00:00.000000',1.0,'1','champion','batch',NULL,NULL,48,'m',1,0.8,68.0,'pro');
INSERT INTO "predictions_churn" VALUES('019caa33-1380-705e-ab05-35f5d5a6827e','2026-03-01 16:20:00.000000','2026-03-01 20:00:00.000000',1.0,'1','champion','batch',NULL,NULL,49,'m',1,0.8,69.0,'pro');
INSERT INTO "predictions_churn" VALUES('019caa45-6300-72a8-93cc-dbe27748182a','2026-03-01 16:40:00.000000','2026-03-01 20:00:00.000000',1.0,'1','champion','batch',NULL,NULL,50,'m',1,0.8,70.0,'pro');
INSERT INTO "predictions_churn" VALUES('019caa57-b280-7cee-ae14-2e70a18d848d','2026-03-01 17:00:00.000000','2026-03-01 20:00:00.000000',1.0,'1','champion','batch',NULL,NULL,51,'m',1,0.8,71.0,'pro');
INSERT INTO "predictions_churn" VALUES('019caa6a-0200-735b-b60c-b1f024579e87','2026-03-01 17:20:00.000000','2026-03-01 20:00:00.000000',1.0,'1','champion','batch',NULL,NULL,52,'m',1,0.8,72.0,'pro');
INSERT INTO "predictions_churn" VALUES('019caa7c-5180-7634-b30c-a971ee4f7c19','2026-03-01 17:40:00.000000','2026-03-01 20:00:00.000000',1.0,'1','champion','batch',NULL,NULL,53,'m',1,0.8,73.0,'pro');
INSERT INTO "predictions_churn" VALUES('019caa8e-a100-7aac-92f8-50225adcd4c4','2026-03-01 18:00:00.000000','2026-03-01 20:00:00.000000',1.0,'1','champion','batch',NULL,NULL,54,'m',1,0.8,74.0,'pro');
INSERT INTO "predictions_churn" VALUES('019caaa0-f080-7d18-bc33-578737940895','2026-03-01 18:20:00.000000','2026-03-01 20:00:00.000000',1.0,'1','champion','batch',NULL,NULL,55,'m',1,0.8,75.0,'pro');
INSERT INTO "predictions_churn" VALUES('019caab3-4000-7ca6-9104-ac06dcb38144','2026-03-01 18:40:00.000000','2026-03-01 20:00:00.000000',1.0,'1','champion','batch',NULL,NULL,56,'m',1,0.8,76.0,'pro');
INSERT INTO "predictions_churn" VALUES('019caac5-8f80-7b47-adc0-4194431305e2','2026-03-01 19:00:00.000000','2026-03-01 20:00:00.000000',1.0,'1','champion','batch',NULL,NULL,57,'m',1,0.8,77.0,'pro');
INSERT INTO "predictions_churn" VALUES('019caad7-df00-7a9a-a4a7-6297d6bfc330','2026-03-01 19:20:00.000000','2026-03-01 20:00:00.000000',1.0,'1','champion','batch',NULL,NULL,58,'m',1,0.8,78.0,'pro');
INSERT INTO "predictions_churn" VALUES('019caaea-2e80-780d-8859-27af21ee94e3','2026-03-01 19:40:00.000000','2026-03-01 20:00:00.000000',1.0,'1','champion','batch',NULL,NULL,59,'m',1,0.8,79.0,'pro');
CREATE TABLE profiles (
	model VARCHAR NOT NULL, 
	version VARCHAR NOT NULL, 
	role VARCHAR NOT NULL, 
	part VARCHAR NOT NULL, 
	segment VARCHAR NOT NULL, 
	bucket_start VARCHAR(26) NOT NULL, 
	bucket_seconds INTEGER NOT NULL, 
	weight DOUBLE NOT NULL, 
	tally BLOB NOT NULL, 
	CONSTRAINT pk_profiles PRIMARY KEY (model, version, role, part, segment, bucket_start, bucket_seconds, weight)
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
CREATE TABLE quality_values (
	evaluation_id INTEGER NOT NULL, 
	"column" VARCHAR NOT NULL, 
	"check" VARCHAR NOT NULL, 
	value DOUBLE NOT NULL, 
	expected DOUBLE NOT NULL, 
	failed BOOLEAN NOT NULL, 
	rows INTEGER NOT NULL, 
	CONSTRAINT pk_quality_values PRIMARY KEY (evaluation_id, "column", "check"), 
	CONSTRAINT fk_quality_values_evaluation_id FOREIGN KEY(evaluation_id) REFERENCES evaluations (evaluation_id)
);
CREATE TABLE reference_profiles (
	model VARCHAR NOT NULL, 
	version VARCHAR NOT NULL, 
	known_since VARCHAR(26) NOT NULL, 
	profile BLOB NOT NULL, 
	CONSTRAINT pk_reference_profiles PRIMARY KEY (model, version)
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
INSERT INTO "retrainings" VALUES(1,'churn','alarm',1,'1',NULL,'refused','2026-03-04 00:00:00.000000','2026-03-04 01:00:00.000000',NULL,'60 rows are too few');
CREATE TABLE slice_values (
	evaluation_id INTEGER NOT NULL, 
	segment VARCHAR NOT NULL, 
	metric VARCHAR NOT NULL, 
	value DOUBLE NOT NULL, 
	rest DOUBLE NOT NULL, 
	rows INTEGER NOT NULL, 
	p_value DOUBLE NOT NULL, 
	tried INTEGER NOT NULL, 
	CONSTRAINT pk_slice_values PRIMARY KEY (evaluation_id, segment, metric), 
	CONSTRAINT fk_slice_values_evaluation_id FOREIGN KEY(evaluation_id) REFERENCES evaluations (evaluation_id)
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
INSERT INTO "verdicts" VALUES(1,'churn','1','2026-03-04 00:00:00.000000','2026-03-01 00:00:00.000000','2026-03-03 00:00:00.000000','degraded','brier 0.1528 on its reference, 0.6400 on 60 labelled predictions since 2026-03-01, 0.6400 lately. A model that had not changed would ever show as much once in more than a million times.','{"loss": "brier", "drifted_share": null, "predictions": 60, "labels": 60, "change": {"reference": 0.15280000000000002, "current": 0.6400000000000001, "lately": 0.6400000000000001, "labels": 60, "alpha": 0.025, "once_in": 400377286610874.94, "alarmed_at": 21, "null": "losses of reference and stream are exchangeable, label by label"}}','{"state": {"alpha": 0.025, "seed": 1, "edges": [0.04, 0.43449999999999933, 0.64], "counts": [644, 0, 156, 60], "payoffs": [1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 0.6789062499999989, 0.0625, 0.0625, 0.0625, 0.0625, 0.0625, 0.0625, 0.0625, 0.0625, 0.0625, 0.0625, 0.0625, 0.0625, 0.0625, 0.0625, 0.0625, 0.0625, 0.0625, 0.0625, 0.0625, 0.0625, 0.0625, 0.0625, 0.0625, 0.0625, 0.0625, 0.0625, 0.0625, 0.0625, 0.0625, 0.0625, 0.0625, 0.0625, 0.0625, 0.0625, 0.0625, 0.0625, 0.0625, 0.0625, 0.0625, 0.0625, 0.0625, 0.0625, 0.0625, 0.0625, 0.0625, 0.0625, 0.0625, 0.0625, 0.0625, 0.0625, 0.0625, 0.0625, 0.0625, 0.0625, 0.0625, 0.0625, 0.0625, 0.0625, 0.0625, 0.0625, 0.0625, 0.0625, 0.0625, 0.0625, 0.0625, 0.0625, 0.0625, 0.0625, 0.0625, 0.0625, 0.0625, 0.0625, 0.0625, 0.0625, 0.0625, 0.0625, 0.0625, 0.0625, 0.0625, 0.0625, 0.0625, 0.0625, 0.0625, 0.0625, 0.0625, 0.0625, 0.0625, 0.0625, 0.0625, 0.0625, 0.0625, 0.0625, 0.0625, 0.0625, 0.0625, 0.0625, 0.0625, 0.0625, 0.0625, 0.0625, 0.0625, 0.0625, 0.0625, 0.0625, 0.0625, 0.0625, 0.0625, 0.0625, 0.0625, 0.0625, 0.0625, 0.0625, 0.0625, 0.0625, 0.0625, 0.0625, 0.0625, 0.0625, 0.0625, 0.0625, 0.0625, 0.0625, 0.0625, 0.0625, 0.0625, 0.0625, 0.0625, 0.0625, 0.0625, 0.0625, 0.0625, 0.0625, 0.0625, 0.0625, 0.0625, 0.0625, 0.0625, 0.0625, 0.0625, 0.0625, 0.0625, 0.0625, 0.0625, 0.0625, 0.0625, 0.0625, 0.0625, 0.0625, 0.0625, 0.0625, 0.0625, 0.0625, 0.0625, 0.0625, 0.0625, 0.0625, 0.0625, 0.0625, 0.0625, 0.0625, 0.0625, 0.0625, 0.0625, 0.0625, 0.0625, 0.0625, 0.0625, 0.0625], "wealth": {"cash": 0.9982886480319453, "bets": [0.00242202991910683, 0.08423721185769946, 67.67367682552131, 2097764.892878277, 641321040005.7389, 399735963473035.56]}, "peak": 400377286610874.94, "seen": 60, "alarmed_at": 21, "kind": "rank"}, "labels": 60, "loss_sum": 38.400000000000006, "since": "2026-03-01T00:00:00+00:00", "lately": [[0, 0.0], [60, 38.400000000000006]]}');
CREATE INDEX ix_evaluations_model_as_of ON evaluations (model, as_of);
CREATE UNIQUE INDEX uq_incidents_open ON incidents (model) WHERE closed_at IS NULL;
CREATE INDEX ix_retrainings_model_started_at ON retrainings (model, started_at);
CREATE INDEX ix_payloads_received_at ON payloads (received_at);
CREATE INDEX ix_predictions_churn_key ON predictions_churn (customer, month);
CREATE INDEX ix_predictions_churn_logged_at ON predictions_churn (logged_at);
CREATE INDEX ix_predictions_churn_predicted_at ON predictions_churn (predicted_at);
CREATE UNIQUE INDEX uq_outcomes_churn_key ON outcomes_churn (customer, month, event_at, revision) WHERE customer IS NOT NULL;
CREATE UNIQUE INDEX uq_outcomes_churn_prediction ON outcomes_churn (prediction_id, revision) WHERE prediction_id IS NOT NULL;
CREATE INDEX ix_outcomes_churn_recorded_at ON outcomes_churn (recorded_at);
CREATE VIEW labelled_churn AS SELECT predictions_churn.prediction_id, predictions_churn.predicted_at, predictions_churn.logged_at, predictions_churn.sample_weight, predictions_churn.model_version, predictions_churn.role, predictions_churn.source, predictions_churn.request_id, predictions_churn.latency_us, predictions_churn.customer, predictions_churn.month, predictions_churn.prediction, predictions_churn.probability, predictions_churn.age, predictions_churn."plan", CASE WHEN (by_id.outcome_id IS NOT NULL) THEN by_id.occurred_at ELSE by_key.occurred_at END AS occurred_at, CASE WHEN (by_id.outcome_id IS NOT NULL) THEN by_id.recorded_at ELSE by_key.recorded_at END AS recorded_at, CASE WHEN (by_id.outcome_id IS NOT NULL) THEN by_id.revision ELSE by_key.revision END AS revision, CASE WHEN (by_id.outcome_id IS NOT NULL) THEN by_id.churned ELSE by_key.churned END AS churned, coalesce(by_id.churned != by_key.churned, 0) AS is_conflict 
FROM predictions_churn LEFT OUTER JOIN outcomes_churn AS by_id ON by_id.prediction_id = predictions_churn.prediction_id AND NOT (EXISTS (SELECT * 
FROM outcomes_churn AS outcomes_churn_1 
WHERE outcomes_churn_1.prediction_id = by_id.prediction_id AND (outcomes_churn_1.event_at, outcomes_churn_1.revision) > (by_id.event_at, by_id.revision))) LEFT OUTER JOIN outcomes_churn AS by_key ON by_key.customer = predictions_churn.customer AND by_key.month = predictions_churn.month AND NOT (EXISTS (SELECT * 
FROM outcomes_churn AS outcomes_churn_2 
WHERE outcomes_churn_2.customer = by_key.customer AND outcomes_churn_2.month = by_key.month AND (outcomes_churn_2.event_at, outcomes_churn_2.revision) > (by_key.event_at, by_key.revision)));
COMMIT;
