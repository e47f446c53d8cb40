"""former DATABASE MIGRATION…: a database as the former version left it, with a key and a job."""

import hashlib
import sqlite3
import sys
from pathlib import Path

KEY = "cimg_" + "a" * 43

database = sqlite3.connect(sys.argv[1])
database.executescript(
    "PRAGMA journal_mode = WAL; CREATE TABLE _sqlx_migrations (version BIGINT PRIMARY KEY,"
    " description TEXT NOT NULL, installed_on TIMESTAMP NOT NULL DEFAULT CURRENT_TIMESTAMP,"
    " success BOOLEAN NOT NULL, checksum BLOB NOT NULL, execution_time BIGINT NOT NULL)"
)
for path in map(Path, sys.argv[2:]):
    sql = path.read_text()
    version, _, name = path.stem.partition("_")
    database.executescript(sql)
    database.execute(
        "INSERT INTO _sqlx_migrations VALUES (?, ?, '2026-01-01', TRUE, ?, 1)",
        (int(version), name, hashlib.sha384(sql.encode()).digest()),
    )
database.execute(
    "INSERT INTO api_keys (id, name, handle, hash, created_at) VALUES ('a', 'old', 'a', ?, 1)",
    (hashlib.sha256(KEY.encode()).hexdigest(),),
)
database.execute(
    "INSERT INTO jobs (id, api_key_id, prompt, size, quality, count, created_at, expires_at) VALUES"
    " ('img_0123456789abcdef0123456789abcdef', 'a', 'a kite of old', 'auto', 'auto', 1, 1, 1)"
)
database.execute("INSERT INTO turns (job_id, position) VALUES ('img_0123456789abcdef0123456789abcdef', 0)")
database.commit()
database.close()
Path(sys.argv[1]).chmod(0o660)  # as the service makes it for both of its users
print(KEY)
