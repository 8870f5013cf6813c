-- Chronicle's public stream in ClickHouse: a Kafka table that decodes by Chronicle's schema registry, a table that keeps
-- each event once, and a view that carries from one to the other.
--
--   clickhouse-client --multiquery < clickhouse.sql
--
-- Put your own in place of 127.0.0.1:9092 (the broker), http://127.0.0.1:8000 (the registry is Chronicle's API),
-- chronicle.events (the topic, with the prefix of your installation).

CREATE DATABASE IF NOT EXISTS chronicle;

-- What comes, as it comes: one column for each field of the Avro schema, found by its name. Never ask this table itself:
-- a SELECT takes the records away from the view.
CREATE TABLE IF NOT EXISTS chronicle.events_queue
(
    event_id FixedString(16),
    fingerprint FixedString(16),
    id_origin String,
    session_id String,
    event_type String,
    hook_event_name Nullable(String),
    occurred_at DateTime64(6, 'UTC'),
    received_at DateTime64(6, 'UTC'),
    source String,
    tool_name Nullable(String),
    tool_use_id Nullable(String),
    agent_id Nullable(String),
    agent_type Nullable(String),
    prompt_id Nullable(String),
    cwd Nullable(String),
    suspected_duplicate_of Nullable(UUID),
    flags Int32,
    payload String,
    metadata String
)
ENGINE = Kafka
SETTINGS
    kafka_broker_list = '127.0.0.1:9092',
    kafka_topic_list = 'chronicle.events',
    kafka_group_name = 'clickhouse',
    kafka_format = 'AvroConfluent',
    kafka_num_consumers = 1,
    kafka_handle_error_mode = 'stream',
    format_avro_schema_registry_url = 'http://127.0.0.1:8000';

-- What is kept. A record may come again, equal in every byte: a ReplacingMergeTree keeps one of those that are equal in
-- its sorting key. event_id alone would do for that; session and time before it make the usual questions quick, and
-- both are the same in a repeat. It merges when it likes: ask with FINAL where a repeat must not count.
CREATE TABLE IF NOT EXISTS chronicle.events
(
    event_id UUID,
    fingerprint FixedString(16),
    id_origin LowCardinality(String),
    session_id String,
    event_type LowCardinality(String),
    hook_event_name LowCardinality(Nullable(String)),
    occurred_at DateTime64(6, 'UTC'),
    received_at DateTime64(6, 'UTC'),
    source LowCardinality(String),
    tool_name LowCardinality(Nullable(String)),
    tool_use_id Nullable(String),
    agent_id Nullable(String),
    agent_type LowCardinality(Nullable(String)),
    prompt_id Nullable(String),
    cwd Nullable(String),
    suspected_duplicate_of Nullable(UUID),
    flags Int32,
    payload String,
    metadata String,
    ingest_partition Int32,
    ingest_offset Int64
)
ENGINE = ReplacingMergeTree
PARTITION BY toYYYYMM(received_at)
ORDER BY (session_id, occurred_at, event_id);

-- The id is 16 bytes in the order a UUID is written. The position is 12 bytes in a header, big-endian; -1 for a record
-- that did not come through Chronicle's intake.
CREATE MATERIALIZED VIEW IF NOT EXISTS chronicle.events_pipe TO chronicle.events AS
SELECT
    toUUID(UUIDNumToString(queue.event_id)) AS event_id,
    queue.fingerprint AS fingerprint,
    queue.id_origin AS id_origin,
    queue.session_id AS session_id,
    queue.event_type AS event_type,
    queue.hook_event_name AS hook_event_name,
    queue.occurred_at AS occurred_at,
    queue.received_at AS received_at,
    queue.source AS source,
    queue.tool_name AS tool_name,
    queue.tool_use_id AS tool_use_id,
    queue.agent_id AS agent_id,
    queue.agent_type AS agent_type,
    queue.prompt_id AS prompt_id,
    queue.cwd AS cwd,
    queue.suspected_duplicate_of AS suspected_duplicate_of,
    queue.flags AS flags,
    queue.payload AS payload,
    queue.metadata AS metadata,
    if(length(position_header) = 12, reinterpretAsInt32(reverse(substring(position_header, 1, 4))), -1) AS ingest_partition,
    if(length(position_header) = 12, reinterpretAsInt64(reverse(substring(position_header, 5, 8))), -1) AS ingest_offset
FROM
(
    SELECT
        *,
        arrayFirst((value, name) -> name = 'chronicle-position', _headers.value, _headers.name) AS position_header
    FROM chronicle.events_queue
    WHERE length(_error) = 0
) AS queue;

-- What could not be decoded: somebody else produces into the topic, or the registry was away for too long.
CREATE TABLE IF NOT EXISTS chronicle.events_broken
(
    seen_at DateTime DEFAULT now(),
    topic String,
    partition UInt64,
    offset UInt64,
    error String,
    raw String
)
ENGINE = MergeTree
ORDER BY (topic, partition, offset);

CREATE MATERIALIZED VIEW IF NOT EXISTS chronicle.events_broken_pipe TO chronicle.events_broken AS
SELECT _topic AS topic, _partition AS partition, _offset AS offset, _error AS error, _raw_message AS raw
FROM chronicle.events_queue
WHERE length(_error) > 0;

-- Tools by the share of their calls that failed, in the last day.
SELECT
    tool_name,
    count() AS calls,
    countIf(event_type = 'post_tool_use_failure') AS failures,
    round(100 * failures / calls, 1) AS failed_percent
FROM chronicle.events FINAL
WHERE event_type IN ('tool_post_use', 'post_tool_use_failure')
    AND suspected_duplicate_of IS NULL
    AND occurred_at > now() - INTERVAL 1 DAY
GROUP BY tool_name
ORDER BY failed_percent DESC, calls DESC;
