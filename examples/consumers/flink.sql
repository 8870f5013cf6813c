-- Chronicle's public stream in Flink SQL (1.18 and later): a Kafka table that decodes by Chronicle's schema registry, with
-- a watermark on the time at which events happened.
--
--   sql-client.sh -f flink.sql        with flink-sql-connector-kafka and flink-sql-avro-confluent-registry in lib/
--
-- Put your own in place of 127.0.0.1:9092 (the broker), http://127.0.0.1:8000 (the registry is Chronicle's API),
-- chronicle.events (the topic, with the prefix of your installation).

-- A partition in which nothing happens must not hold the watermark back.
SET 'table.exec.source.idle-timeout' = '10 s';

-- The columns are the fields of the Avro schema, in its order. The schema is told as well: from the columns alone Flink
-- would ask for bytes and text where the records have `fixed` and `enum`, which Avro does not turn into each other. It is
-- the reader's schema, so it leaves the logical types out: times stay microseconds (Flink's own timestamps of this format
-- have milliseconds), and both must say the same type for each field.
CREATE TABLE chronicle_events (
    event_id VARBINARY(16) NOT NULL,
    fingerprint VARBINARY(16) NOT NULL,
    id_origin STRING NOT NULL,
    session_id STRING NOT NULL,
    event_type STRING NOT NULL,
    hook_event_name STRING,
    occurred_at BIGINT NOT NULL,
    received_at BIGINT NOT NULL,
    `source` STRING NOT NULL,
    tool_name STRING,
    tool_use_id STRING,
    agent_id STRING,
    agent_type STRING,
    prompt_id STRING,
    cwd STRING,
    suspected_duplicate_of STRING,
    flags INT NOT NULL,
    payload STRING NOT NULL,
    metadata STRING NOT NULL,
    occurred AS TO_TIMESTAMP_LTZ(occurred_at / 1000, 3),
    WATERMARK FOR occurred AS occurred - INTERVAL '30' SECOND
) WITH (
    'connector' = 'kafka',
    'topic' = 'chronicle.events',
    'properties.bootstrap.servers' = '127.0.0.1:9092',
    'properties.group.id' = 'flink',
    'scan.startup.mode' = 'earliest-offset',
    'format' = 'avro-confluent',
    'avro-confluent.url' = 'http://127.0.0.1:8000',
    'avro-confluent.schema' = '{
      "type": "record", "name": "HookEvent", "namespace": "chronicle", "fields": [
        {"name": "event_id", "type": {"type": "fixed", "name": "EventId", "size": 16}},
        {"name": "fingerprint", "type": {"type": "fixed", "name": "Fingerprint", "size": 16}},
        {"name": "id_origin", "type": {"type": "enum", "name": "IdOrigin", "symbols": ["client", "natural", "fresh"]}},
        {"name": "session_id", "type": "string"},
        {"name": "event_type", "type": "string"},
        {"name": "hook_event_name", "type": ["null", "string"]},
        {"name": "occurred_at", "type": "long"},
        {"name": "received_at", "type": "long"},
        {"name": "source", "type": "string"},
        {"name": "tool_name", "type": ["null", "string"]},
        {"name": "tool_use_id", "type": ["null", "string"]},
        {"name": "agent_id", "type": ["null", "string"]},
        {"name": "agent_type", "type": ["null", "string"]},
        {"name": "prompt_id", "type": ["null", "string"]},
        {"name": "cwd", "type": ["null", "string"]},
        {"name": "suspected_duplicate_of", "type": ["null", "string"]},
        {"name": "flags", "type": "int"},
        {"name": "payload", "type": "string"},
        {"name": "metadata", "type": "string"}
      ]
    }'
);

-- Calls and failures of each tool by minute. A record may come again, equal in every byte: counting distinct ids makes
-- that harmless. `occurred` is the clients' clock; what comes more than 30 s late is left out here.
SELECT
    window_start,
    tool_name,
    COUNT(DISTINCT event_id) AS calls,
    COUNT(DISTINCT event_id) FILTER (WHERE event_type = 'post_tool_use_failure') AS failures
FROM TABLE(TUMBLE(TABLE chronicle_events, DESCRIPTOR(occurred), INTERVAL '1' MINUTE))
WHERE event_type IN ('tool_post_use', 'post_tool_use_failure') AND suspected_duplicate_of IS NULL
GROUP BY window_start, window_end, tool_name;
