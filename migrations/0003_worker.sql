-- One row: what the worker tells the front, which may be another process. Times are milliseconds
-- since the Unix epoch, UTC.
CREATE TABLE worker_status (
    one            INTEGER PRIMARY KEY CHECK (one = 1),
    -- Until when every login rests; NULL when one can be used.
    all_rest_until INTEGER
) STRICT;

INSERT INTO worker_status VALUES (1, NULL);
