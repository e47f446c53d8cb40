//! A long history, made by hand: drawing it would take years.

use super::{Service, sqlite::Database};

/// What stands in one prompt of a thousand, spread evenly.
pub const RARE: &str = "a crimson zeppelin";

/// Puts so many jobs into the service's database, over the last year and until now: of three keys
/// and two logins, of all final states, those of the last week with pictures (rows without files).
/// The ids are `img_` and the number in 32 hex digits, the newest has the highest.
pub fn fill(service: &Service, jobs: u32) {
    for name in ["blog", "n8n", "home assistant"] {
        service.key(name);
    }
    // Every seventeenth failed, every fiftieth was cancelled; words enough for a prompt of common
    // length. The oldest is of a year ago.
    let fill = format!(
        "PRAGMA synchronous = OFF;
         BEGIN;
         CREATE TEMP TABLE callers AS
           SELECT row_number() OVER (ORDER BY id) - 1 AS n, id FROM api_keys;
         CREATE TEMP TABLE made AS
           WITH RECURSIVE n (n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM n WHERE n < {jobs})
           SELECT n, printf('img_%032x', n) AS id,
             unixepoch() * 1000 - CAST(({jobs} - n) * (365.0 * 86400000 / {jobs}) AS INTEGER) AS at,
             CASE WHEN n % 17 = 0 THEN 'failed' WHEN n % 50 = 0 THEN 'cancelled'
               ELSE 'succeeded' END AS state
           FROM n;
         INSERT INTO jobs (id, api_key_id, prompt, size, quality, count, state, error_code, error,
             created_at, started_at, finished_at, expires_at, purged_at)
           SELECT made.id, callers.id,
             CASE WHEN made.n % 1000 = 0 THEN '{RARE} ' ELSE '' END ||
             'picture ' || made.n || ' of a harbour in the morning, seen from the hill, with ' ||
             'small boats, long shadows and two people who talk about the weather',
             '1024x1024', 'medium', 1,
             CASE WHEN state = 'succeeded' AND at < unixepoch() * 1000 - 7 * 86400000
               THEN 'expired' ELSE state END,
             iif(state = 'failed', 'codex_error', NULL), iif(state = 'failed', 'It failed.', NULL),
             at, at + 500, at + 61000, at + 7 * 86400000,
             iif(at < unixepoch() * 1000 - 7 * 86400000, at + 7 * 86400000, NULL)
           FROM made JOIN callers ON callers.n = made.n % (SELECT count(*) FROM callers)
           ORDER BY made.n;
         INSERT INTO turns (job_id, position, job_seq, state, login, thread_id, started_at,
             finished_at, error_code)
           SELECT j.id, 0, j.seq, iif(j.state = 'failed', 'failed', 'succeeded'),
             iif(j.seq % 3 = 0, 'second', 'first'), 'thread-' || j.seq, j.started_at, j.finished_at,
             j.error_code
           FROM jobs j JOIN made ON made.id = j.id WHERE j.state <> 'cancelled' ORDER BY j.id;
         INSERT INTO images (job_id, position, file, type, bytes, width, height, sha256, created_at,
             source_sha256)
           SELECT id, 0, id || '.png', 'image/png', 1500000, 1024, 1024, id, finished_at, id
           FROM jobs WHERE state = 'succeeded' AND id IN (SELECT id FROM made) ORDER BY id;
         INSERT OR REPLACE INTO turns_by_hour
           SELECT finished_at / 3600000, coalesce(login, ''), sum(state = 'succeeded'),
             sum(state = 'failed') FROM turns WHERE finished_at IS NOT NULL GROUP BY 1, 2;
         UPDATE api_keys SET images = (SELECT count(*) FROM turns JOIN jobs ON jobs.id = job_id
           WHERE turns.state = 'succeeded' AND api_key_id = api_keys.id);
         INSERT OR REPLACE INTO login_status VALUES
           ('first', 0, 'acc', 'plus', unixepoch() * 1000 + 86400000, NULL, NULL, 0, unixepoch() * 1000),
           ('second', 1, 'bcc', 'plus', unixepoch() * 1000 + 86400000, NULL, NULL, 0, unixepoch() * 1000);
         WITH RECURSIVE h (h) AS (SELECT 0 UNION ALL SELECT h + 1 FROM h WHERE h < 90 * 24),
           l (login) AS (VALUES ('first'), ('second')),
           q (quota, minutes) AS (VALUES ('codex', 300), ('codex', 10080), ('image_gen', 2880))
         INSERT OR REPLACE INTO login_quota
           SELECT login, quota, minutes, unixepoch() * 1000 - h * 3600000, h % 100,
             unixepoch() * 1000
           FROM h, l, q;
         DROP TABLE made;
         DROP TABLE callers;
         COMMIT;
         PRAGMA wal_checkpoint(TRUNCATE);"
    );
    Database::of(service).run(&fill);
}
