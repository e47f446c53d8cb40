-- What is kept of logins. Times are milliseconds since the Unix epoch, UTC; nothing is a secret.

-- One row: what can be changed while the service runs.
CREATE TABLE dispatch (
    one  INTEGER PRIMARY KEY CHECK (one = 1),
    mode TEXT    NOT NULL CHECK (mode IN ('round-robin', 'primary-first'))
) STRICT;

INSERT INTO dispatch VALUES (1, 'round-robin');

-- The rests that a restart must not forget.
CREATE TABLE login_rests (
    login  TEXT    PRIMARY KEY,
    until  INTEGER NOT NULL,
    reason TEXT    NOT NULL CHECK (reason IN ('quota', 'low_quota', 'login_expired', 'faults')),
    -- The limit that is used up, where there is one.
    quota  TEXT
) STRICT, WITHOUT ROWID;

-- The quota as it was told; the newest row of a window is how it stands.
CREATE TABLE login_quota (
    login     TEXT    NOT NULL,
    -- `codex`, `image_gen`, …; and the window's length.
    quota     TEXT    NOT NULL,
    minutes   INTEGER NOT NULL,
    at        INTEGER NOT NULL,
    used      INTEGER NOT NULL CHECK (used BETWEEN 0 AND 100),
    resets_at INTEGER,
    PRIMARY KEY (login, quota, minutes, at)
) STRICT, WITHOUT ROWID;

-- The audit trail.
CREATE TABLE login_events (
    seq    INTEGER PRIMARY KEY,
    at     INTEGER NOT NULL,
    login  TEXT    NOT NULL,
    what   TEXT    NOT NULL CHECK (what IN ('rests', 'wakes', 'failed', 'rotated', 'killed')),
    detail TEXT    NOT NULL
) STRICT;

CREATE INDEX login_events_by_time ON login_events (at);

-- What a login has drawn lately.
CREATE INDEX turns_by_end ON turns (finished_at) WHERE finished_at IS NOT NULL;
