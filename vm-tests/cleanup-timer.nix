# A timer removes what has expired, while neither front nor worker runs.
{
  name = "codex-image-cleanup-timer";
  nodes.machine = {
    imports = [ ./lib/node.nix ];
    services.codex-image-service = {
      settings.image_retention_days = 0.0002; # 17 s
      idleExit = {
        front = 1;
        worker = 1;
      };
      cleanup.onCalendar = "*:*:0/3";
    };
    systemd.timers.codex-image-cleanup.timerConfig = {
      AccuracySec = "1s";
      RandomizedDelaySec = "0";
    };
  };

  testScript = ''
    import json

    machine.wait_for_unit("codex-image-cleanup.timer")
    machine.succeed("log-in main", "codex-image-service keys create laptop > /root/key")
    url = json.loads(machine.succeed("ask /v1/images/generate '{\"prompt\":\"a red kite\"}'"))["images"][0]["url"]
    name = url.rsplit("/", 1)[1]
    picture = f"/var/lib/codex-image-service/generated/{name}"
    machine.succeed(f"test -s {picture}")

    with subtest("the timer removes the picture after its time"):
        machine.wait_until_fails(f"test -e {picture}", timeout=80)
        t.assertEqual(machine.get_unit_property("codex-image-cleanup.service", "Result"), "success")

    with subtest("the history stays, the picture is gone"):
        said = json.loads(machine.succeed("curl -fsS http://127.0.0.1:8000/v1/images/jobs -H \"Authorization: Bearer $(cat /root/key)\""))
        t.assertEqual([job["status"] for job in said["data"]], ["expired"])
        t.assertIn("file_not_found", machine.succeed(f"curl -sS http://127.0.0.1:8000/generated/{name}"))

    with subtest("by hand it is the same"):
        machine.succeed("systemctl start codex-image-cleanup.service")
        machine.succeed("codex-image-service cleanup")
  '';
}
