-- What the admin pages ask of the store. Times are milliseconds since the Unix epoch, UTC.

-- One row at most: the password that was made because none was set.
CREATE TABLE admin_account (
    one           INTEGER PRIMARY KEY CHECK (one = 1),
    -- Argon2id, as a PHC string.
    password_hash TEXT    NOT NULL,
    set_at        INTEGER NOT NULL
) STRICT;

-- One row. Raised to void the cookies by which browsers are known that have signed in before.
CREATE TABLE admin_devices (
    one        INTEGER PRIMARY KEY CHECK (one = 1),
    generation INTEGER NOT NULL
) STRICT;
INSERT INTO admin_devices VALUES (1, 0);

CREATE TABLE admin_sessions (
    -- SHA-256 of what the cookie holds.
    id         BLOB    PRIMARY KEY,
    created_at INTEGER NOT NULL,
    expires_at INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

-- What the operator asks of the worker, which may be another process, and what came of it.
CREATE TABLE orders (
    seq     INTEGER PRIMARY KEY,
    at      INTEGER NOT NULL,
    what    TEXT    NOT NULL CHECK (what IN
            ('test_login', 'rest_login', 'wake_login', 'clean_up', 'count', 'remove_job')),
    -- A login's label or a job's id.
    subject TEXT    NOT NULL DEFAULT '',
    -- Of a rest.
    until   INTEGER,
    done_at INTEGER,
    failed  INTEGER NOT NULL DEFAULT 0 CHECK (failed IN (0, 1)),
    -- In words, once it is done.
    outcome TEXT
) STRICT;

CREATE INDEX orders_open ON orders (seq) WHERE done_at IS NULL;
CREATE INDEX orders_by_subject ON orders (subject, seq);

-- Clean-ups, and counts of what one would remove.
CREATE TABLE cleanup_runs (
    seq           INTEGER PRIMARY KEY,
    started_at    INTEGER NOT NULL,
    finished_at   INTEGER NOT NULL,
    cause         TEXT    NOT NULL CHECK (cause IN ('schedule', 'operator', 'command')),
    dry_run       INTEGER NOT NULL CHECK (dry_run IN (0, 1)),
    expired_jobs  INTEGER NOT NULL,
    images        INTEGER NOT NULL,
    orphan_files  INTEGER NOT NULL,
    orphan_rows   INTEGER NOT NULL,
    codex_threads INTEGER NOT NULL,
    bytes         INTEGER NOT NULL,
    -- Folders that were not searched, one a line, and what stopped it.
    skipped       TEXT    NOT NULL DEFAULT '',
    error         TEXT
) STRICT;

-- The logins as the worker sees them: the front never looks into their homes.
CREATE TABLE login_status (
    login            TEXT    PRIMARY KEY,
    -- Its place in the settings.
    place            INTEGER NOT NULL,
    account          TEXT,
    plan             TEXT,
    token_expires_at INTEGER,
    problem_code     TEXT,
    problem          TEXT,
    busy_elsewhere   INTEGER NOT NULL CHECK (busy_elsewhere IN (0, 1)),
    told_at          INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

ALTER TABLE worker_status ADD COLUMN started_at INTEGER;
ALTER TABLE worker_status ADD COLUMN codex_version TEXT;
ALTER TABLE worker_status ADD COLUMN next_cleanup_at INTEGER;

-- A login may rest because somebody said so, and be tested.
CREATE TABLE new_login_rests (
    login  TEXT    PRIMARY KEY,
    until  INTEGER NOT NULL,
    reason TEXT    NOT NULL CHECK (reason IN
           ('quota', 'low_quota', 'login_expired', 'faults', 'by_hand')),
    -- The limit that is used up, where there is one.
    quota  TEXT
) STRICT, WITHOUT ROWID;
INSERT INTO new_login_rests SELECT login, until, reason, quota FROM login_rests;
DROP TABLE login_rests;
ALTER TABLE new_login_rests RENAME TO login_rests;

CREATE TABLE new_login_events (
    seq    INTEGER PRIMARY KEY,
    at     INTEGER NOT NULL,
    login  TEXT    NOT NULL,
    what   TEXT    NOT NULL CHECK (what IN
           ('rests', 'wakes', 'failed', 'rotated', 'killed', 'tested')),
    detail TEXT    NOT NULL
) STRICT;
INSERT INTO new_login_events SELECT seq, at, login, what, detail FROM login_events;
DROP TABLE login_events;
ALTER TABLE new_login_events RENAME TO login_events;
CREATE INDEX login_events_by_time ON login_events (at);
CREATE INDEX login_events_by_login ON login_events (login, seq);

-- The operator deleted it: it is shown nowhere, and its words and files go. The row stays, for a
-- picture counts towards the limits whether somebody wants to see it or not.
ALTER TABLE jobs ADD COLUMN deleted_at INTEGER;

-- Pages of the history. The order of acceptance is nearly that of time; a range of times becomes
-- one of `seq`.
CREATE INDEX jobs_by_time ON jobs (created_at);
CREATE INDEX jobs_by_state ON jobs (state, seq) WHERE state NOT IN ('queued', 'running');
CREATE INDEX jobs_by_key_and_state ON jobs (api_key_id, state, seq)
    WHERE state NOT IN ('queued', 'running');

-- The jobs of a login, in their order.
ALTER TABLE turns ADD COLUMN job_seq INTEGER;
UPDATE turns SET job_seq = (SELECT seq FROM jobs WHERE id = job_id);
CREATE INDEX turns_by_login ON turns (login, job_seq) WHERE login IS NOT NULL;

-- With all that is counted of them.
DROP INDEX turns_by_end;
CREATE INDEX turns_by_end ON turns (finished_at, login, state) WHERE finished_at IS NOT NULL;

-- Counted as it happens: no page counts a million rows.
ALTER TABLE api_keys ADD COLUMN jobs INTEGER NOT NULL DEFAULT 0;
ALTER TABLE api_keys ADD COLUMN images INTEGER NOT NULL DEFAULT 0;
UPDATE api_keys SET jobs = made.jobs
    FROM (SELECT api_key_id, count(*) AS jobs FROM jobs GROUP BY api_key_id) AS made
    WHERE made.api_key_id = api_keys.id;
UPDATE api_keys SET images = made.images
    FROM (SELECT jobs.api_key_id, count(*) AS images FROM turns
          JOIN jobs ON jobs.seq = turns.job_seq WHERE turns.state = 'succeeded'
          GROUP BY jobs.api_key_id) AS made
    WHERE made.api_key_id = api_keys.id;

-- One row: the pictures that lie on the disk.
CREATE TABLE stored_images (
    one    INTEGER PRIMARY KEY CHECK (one = 1),
    images INTEGER NOT NULL,
    bytes  INTEGER NOT NULL
) STRICT;
INSERT INTO stored_images SELECT 1, count(*), coalesce(sum(bytes), 0) FROM images;

-- Turns that ended, by the hour since the epoch; `login` is empty where none was reached.
CREATE TABLE turns_by_hour (
    hour     INTEGER NOT NULL,
    login    TEXT    NOT NULL,
    images   INTEGER NOT NULL,
    failures INTEGER NOT NULL,
    PRIMARY KEY (hour, login)
) STRICT, WITHOUT ROWID;
INSERT INTO turns_by_hour
    SELECT finished_at / 3600000, coalesce(login, ''), sum(state = 'succeeded'), sum(state = 'failed')
    FROM turns WHERE finished_at IS NOT NULL AND state IN ('succeeded', 'failed') GROUP BY 1, 2;

-- How each window stands: the newest row of `login_quota`, whose history is long.
CREATE TABLE login_windows (
    login     TEXT    NOT NULL,
    quota     TEXT    NOT NULL,
    minutes   INTEGER NOT NULL,
    at        INTEGER NOT NULL,
    used      INTEGER NOT NULL,
    resets_at INTEGER,
    PRIMARY KEY (login, quota, minutes)
) STRICT, WITHOUT ROWID;
INSERT INTO login_windows
    SELECT login, quota, minutes, max(at), used, resets_at FROM login_quota
    GROUP BY login, quota, minutes;

CREATE TRIGGER quota_told AFTER INSERT ON login_quota BEGIN
    INSERT OR REPLACE INTO login_windows
        VALUES (NEW.login, NEW.quota, NEW.minutes, NEW.at, NEW.used, NEW.resets_at);
END;

-- A process of the version before may still accept jobs.
CREATE TRIGGER turn_asked AFTER INSERT ON turns WHEN NEW.job_seq IS NULL BEGIN
    UPDATE turns SET job_seq = (SELECT seq FROM jobs WHERE id = NEW.job_id)
        WHERE job_id = NEW.job_id AND position = NEW.position;
END;

CREATE TRIGGER job_accepted AFTER INSERT ON jobs BEGIN
    UPDATE api_keys SET jobs = jobs + 1 WHERE id = NEW.api_key_id;
END;

CREATE TRIGGER turn_ended AFTER UPDATE OF state ON turns
WHEN NEW.state IN ('succeeded', 'failed') AND OLD.state NOT IN ('succeeded', 'failed')
BEGIN
    INSERT INTO turns_by_hour VALUES (NEW.finished_at / 3600000, coalesce(NEW.login, ''),
        NEW.state = 'succeeded', NEW.state = 'failed')
        ON CONFLICT DO UPDATE
        SET images = images + excluded.images, failures = failures + excluded.failures;
    UPDATE api_keys SET images = images + (NEW.state = 'succeeded')
        WHERE id = (SELECT api_key_id FROM jobs WHERE id = NEW.job_id);
END;

CREATE TRIGGER image_stored AFTER INSERT ON images BEGIN
    UPDATE stored_images SET images = images + 1, bytes = bytes + NEW.bytes;
END;

CREATE TRIGGER image_removed AFTER DELETE ON images BEGIN
    UPDATE stored_images SET images = images - 1, bytes = bytes - OLD.bytes;
END;
