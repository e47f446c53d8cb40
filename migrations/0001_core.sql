-- Times are milliseconds since the Unix epoch, UTC.

-- One row: which database this is. The folders whose content it knows bear the same id.
CREATE TABLE instance (
    one INTEGER PRIMARY KEY CHECK (one = 1),
    id  TEXT    NOT NULL
) STRICT;

INSERT INTO instance VALUES (1, lower(hex(randomblob(16))));

CREATE TABLE api_keys (
    id           TEXT    PRIMARY KEY,
    name         TEXT    NOT NULL,
    -- What people are shown: the prefix and four characters of the secret.
    handle       TEXT    NOT NULL,
    -- Hex SHA-256 of the whole key; NULL once the key is deleted, so that nothing verifies
    -- against it while the history keeps its name.
    hash         TEXT    UNIQUE,
    enabled      INTEGER NOT NULL DEFAULT 1 CHECK (enabled IN (0, 1)),
    created_at   INTEGER NOT NULL,
    last_used_at INTEGER,
    deleted_at   INTEGER
) STRICT, WITHOUT ROWID;

CREATE TABLE jobs (
    -- The order of acceptance; the queue is served in it.
    seq         INTEGER PRIMARY KEY,
    id          TEXT    NOT NULL UNIQUE,
    api_key_id  TEXT    NOT NULL REFERENCES api_keys (id),
    prompt      TEXT    NOT NULL,
    size        TEXT    NOT NULL,
    quality     TEXT    NOT NULL,
    count       INTEGER NOT NULL CHECK (count BETWEEN 1 AND 10),
    state       TEXT    NOT NULL DEFAULT 'queued'
                CHECK (state IN ('queued', 'running', 'succeeded', 'failed', 'cancelled', 'expired')),
    lease_owner TEXT,
    lease_until INTEGER,
    -- Grows with every change of ownership; a write that names an older one changes nothing.
    generation  INTEGER NOT NULL DEFAULT 0,
    attempts    INTEGER NOT NULL DEFAULT 0,
    error_code  TEXT,
    error       TEXT,
    retry_at    INTEGER,
    -- While it waits for a quota to start anew.
    not_before  INTEGER,
    created_at  INTEGER NOT NULL,
    started_at  INTEGER,
    finished_at INTEGER,
    -- The phases of its latest attempt.
    waiting_at  INTEGER,
    starting_at INTEGER,
    drawing_at  INTEGER,
    saving_at   INTEGER,
    expires_at  INTEGER NOT NULL,
    -- When the clean-up removed the job's files.
    purged_at   INTEGER
) STRICT;

CREATE INDEX jobs_queued ON jobs (seq) WHERE state = 'queued';
CREATE INDEX jobs_running ON jobs (lease_until) WHERE state = 'running';
CREATE INDEX jobs_by_key ON jobs (api_key_id, seq);
CREATE INDEX jobs_expiring ON jobs (expires_at)
    WHERE purged_at IS NULL AND state NOT IN ('queued', 'running');

-- One row a picture that was asked for.
CREATE TABLE turns (
    job_id      TEXT    NOT NULL REFERENCES jobs (id) ON DELETE CASCADE,
    position    INTEGER NOT NULL,
    generation  INTEGER NOT NULL DEFAULT 0,
    state       TEXT    NOT NULL DEFAULT 'pending'
                CHECK (state IN ('pending', 'running', 'succeeded', 'failed')),
    login       TEXT,
    thread_id   TEXT,
    stdout      TEXT,
    stderr      TEXT,
    -- The model's last words.
    note        TEXT,
    error_code  TEXT,
    error       TEXT,
    retry_at    INTEGER,
    started_at  INTEGER,
    finished_at INTEGER,
    PRIMARY KEY (job_id, position)
) STRICT, WITHOUT ROWID;

CREATE INDEX turns_by_thread ON turns (thread_id) WHERE thread_id IS NOT NULL;

CREATE TABLE images (
    job_id     TEXT    NOT NULL REFERENCES jobs (id) ON DELETE CASCADE,
    position   INTEGER NOT NULL,
    file       TEXT    NOT NULL UNIQUE,
    type       TEXT    NOT NULL,
    bytes      INTEGER NOT NULL,
    width      INTEGER NOT NULL,
    height     INTEGER NOT NULL,
    sha256     TEXT    NOT NULL,
    created_at INTEGER NOT NULL,
    PRIMARY KEY (job_id, position)
) STRICT, WITHOUT ROWID;

CREATE INDEX images_by_sha256 ON images (sha256);

-- "references" is a word of SQL's own.
CREATE TABLE job_references (
    job_id   TEXT    NOT NULL REFERENCES jobs (id) ON DELETE CASCADE,
    position INTEGER NOT NULL,
    file     TEXT    NOT NULL,
    type     TEXT    NOT NULL,
    bytes    INTEGER NOT NULL,
    width    INTEGER NOT NULL,
    height   INTEGER NOT NULL,
    sha256   TEXT    NOT NULL,
    PRIMARY KEY (job_id, position)
) STRICT, WITHOUT ROWID;
