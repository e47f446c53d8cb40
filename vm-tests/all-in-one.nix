# One process of one user that always runs: the same pictures, the same folders.
{
  name = "codex-image-all-in-one";
  nodes.machine = {
    imports = [ ./lib/node.nix ];
    # As the worker was called before.
    users.users.codex-image-other = {
      isSystemUser = true;
      group = "codex-image";
    };
    services.codex-image-service = {
      split = false;
      onDemand = false;
      backup.enable = true;
    };
  };

  testScript = ''
    unit = "codex-image-service.service"
    machine.wait_for_unit(unit)
    machine.wait_until_succeeds("curl -fsS http://127.0.0.1:8000/health")
    machine.succeed("log-in main", "codex-image-service keys create laptop > /root/key")

    with subtest("a picture, drawn by the one process"):
        machine.succeed("ask /v1/images/generate '{\"prompt\":\"a red kite\"}'")
        machine.succeed("test -d /var/lib/codex-image-worker/codex")
        machine.succeed("systemctl start codex-image-healthcheck.service codex-image-cleanup.service")
        machine.fail("systemctl cat codex-image-worker.service")

    with subtest("the worker's cage holds it all"):
        machine.succeed(f"systemd-analyze security --no-pager --threshold=15 {unit}")
        machine.succeed("ask /v1/images/generate '{\"prompt\":\"[fake listen]\"}'")
        t.assertEqual(machine.succeed("cat /var/lib/codex-image-worker/home/listen.log").strip(), "Operation not permitted")

    with subtest("what was the other user's before `split` changed is handed over"):
        state, logins = "/var/lib/codex-image-service", "/var/lib/codex-image-worker"
        machine.succeed(
            f"touch {state}/session-secret {state}/admin-password",
            f"chown -R nobody {logins} {state}/session-secret {state}/admin-password",
            "systemd-tmpfiles --create",
        )
        machine.succeed(f"test -z \"$(find {logins} ! -user codex-image)\"")
        t.assertEqual(machine.succeed(f"stat -c %a {logins}/logins/main/auth.json").strip(), "600")
        for name in ["session-secret", "admin-password"]:
            t.assertEqual(machine.succeed(f"stat -c %a:%U {state}/{name}").strip(), "600:codex-image")

    with subtest("so are the copies of the database, and nothing beside them"):
        folder = "/var/backup/codex-image-service"
        machine.succeed("systemctl start codex-image-backup.service")
        copy = machine.succeed(f"echo {folder}/*.db").strip()
        # By another's name, and in a folder that was the other's as well.
        machine.succeed(
            f"touch {folder}/notes && chown -R codex-image-other {folder}",
            "systemd-tmpfiles --create",
        )
        t.assertEqual(machine.succeed(f"stat -c %a:%U {folder} {copy} {folder}/notes").split(), ["700:codex-image", "600:codex-image", "644:codex-image-other"])
        machine.succeed(f"systemctl stop codex-image-service.socket {unit}", f"codex-image-service restore {copy}", f"systemctl start {unit}")

    with subtest("it stops well, and takes Codex along"):
        machine.succeed(f"systemctl stop codex-image-service.socket {unit}")
        t.assertEqual(machine.get_unit_property(unit, "Result"), "success")
        machine.fail("pgrep -u codex-image")
  '';
}
