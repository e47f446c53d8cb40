-- What OpenAI's Images API asks of a job beyond the native one, and what makes a repeated request
-- find its job. Times are milliseconds since the Unix epoch, UTC.

ALTER TABLE jobs ADD COLUMN background TEXT NOT NULL DEFAULT 'auto'
    CHECK (background IN ('auto', 'opaque', 'transparent'));
-- The format that pictures are converted to; NULL: they stay as Codex made them.
ALTER TABLE jobs ADD COLUMN output_format TEXT CHECK (output_format IN ('png', 'jpeg', 'webp'));
ALTER TABLE jobs ADD COLUMN output_compression INTEGER
    CHECK (output_compression BETWEEN 0 AND 100);
-- The caller's own word for whom the picture is.
ALTER TABLE jobs ADD COLUMN end_user TEXT;
-- SHA-256 over the route, the parsed fields and the digests of the references.
ALTER TABLE jobs ADD COLUMN request_hash BLOB;
ALTER TABLE jobs ADD COLUMN idempotency_key TEXT;

CREATE INDEX jobs_by_request ON jobs (api_key_id, request_hash) WHERE request_hash IS NOT NULL;
CREATE INDEX jobs_by_idempotency_key ON jobs (api_key_id, idempotency_key)
    WHERE idempotency_key IS NOT NULL;

ALTER TABLE job_references ADD COLUMN role TEXT NOT NULL DEFAULT 'image'
    CHECK (role IN ('image', 'mask'));

-- Whether no pixel lets anything shine through.
ALTER TABLE images ADD COLUMN opaque INTEGER NOT NULL DEFAULT 1 CHECK (opaque IN (0, 1));
-- SHA-256 of what Codex made; another one than that of the file where it was converted.
ALTER TABLE images ADD COLUMN source_sha256 TEXT;
UPDATE images SET source_sha256 = sha256;
DROP INDEX images_by_sha256;
CREATE INDEX images_by_source ON images (source_sha256);
