# A copy of the database that is made while the service runs is whole, few are kept, and one is
# enough to go on with.
{
  name = "codex-image-backup-restore";
  nodes.machine = {
    imports = [ ./lib/node.nix ];
    services.codex-image-service.backup = {
      enable = true;
      keep = 2;
    };
  };

  testScript = ''
    import json

    folder, database = "/var/backup/codex-image-service", "/var/lib/codex-image-service/codex-image-service.db"
    machine.wait_for_unit("codex-image-backup.timer")
    machine.succeed("log-in main", "codex-image-service keys create laptop > /root/key")
    machine.succeed("ask /v1/images/generate '{\"prompt\":\"a red kite\"}'")

    with subtest("copies of a running service, for the worker alone"):
        machine.succeed("ask /v1/images/jobs '{\"prompt\":\"[fake sleep=3]\"}'")
        for _ in range(3):
            machine.succeed("systemctl start codex-image-backup.service", "sleep 1.1")
        copies = machine.succeed(f"ls {folder}").split()
        t.assertEqual(len(copies), 2)
        t.assertEqual(machine.succeed(f"stat -c %a:%U {folder}").strip(), "700:codex-image-worker")
        for copy in copies:
            t.assertEqual(machine.succeed(f"sqlite3 -readonly {folder}/{copy} 'PRAGMA integrity_check'").strip(), "ok")

    with subtest("what was lost is restored from one"):
        machine.succeed(
            "systemctl stop codex-image-service.socket codex-image-worker.socket codex-image-service.service codex-image-worker.service",
            f"head -c 100000 /dev/urandom > {database}",
            f"codex-image-service restore {folder}/{copies[-1]}",
            "systemctl start codex-image-service.socket codex-image-worker.socket",
        )
        said = json.loads(machine.succeed("curl -fsS http://127.0.0.1:8000/v1/images/jobs -H \"Authorization: Bearer $(cat /root/key)\""))
        t.assertEqual(len(said["data"]), 2)
        machine.succeed("ask /v1/images/generate '{\"prompt\":\"a green kite\"}'")
  '';
}
