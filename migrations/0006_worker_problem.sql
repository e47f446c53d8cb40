-- What stands in the way of every picture, whatever the logins: Codex is missing, say. The front
-- looks at no Codex.
ALTER TABLE worker_status ADD COLUMN problem_code TEXT;
ALTER TABLE worker_status ADD COLUMN problem TEXT;
