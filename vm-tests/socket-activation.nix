# Nothing runs until somebody asks; what has nothing to do ends; nobody who waits notices a new front.
{
  name = "codex-image-socket-activation";
  nodes.machine = {
    imports = [ ./lib/node.nix ];
    services.codex-image-service = {
      idleExit = {
        front = 2;
        worker = 3;
      };
      # The timer after a boot has a test of its own.
      keepAlive = false;
      # One that the machine has not got.
      listen = [
        "127.0.0.1:8000"
        "192.0.2.7:8000"
      ];
      settings.codex_worker_concurrency = 4;
    };
    systemd.timers.codex-image-worker.enable = false;
  };

  testScript = ''
    import json

    front, worker = "codex-image-service.service", "codex-image-worker.service"
    paid = "/var/lib/codex-image-worker/home/payments.log"

    machine.wait_for_unit("codex-image-service.socket")
    machine.wait_for_unit("codex-image-worker.socket")
    machine.succeed("log-in main", "codex-image-service keys create laptop > /root/key")

    def idle():
        "Until no process of ours runs."
        for unit in [front, worker]:
            machine.wait_until_succeeds(f"test \"$(systemctl is-active {unit})\" = inactive", timeout=40)
            t.assertEqual(machine.get_unit_property(unit, "Result"), "success")
        machine.fail("pgrep -u codex-image", "pgrep -u codex-image-worker")

    with subtest("nothing runs"):
        for unit in [front, worker]:
            machine.require_unit_state(unit, "inactive")
        machine.fail("pgrep -u codex-image", "pgrep -u codex-image-worker")

    with subtest("an address that comes late is listened on before it is there"):
        machine.fail("ip address show | grep 192.0.2.7")
        t.assertIn("192.0.2.7:8000", machine.succeed("ss -Hltn"))

    with subtest("a request starts what it needs"):
        machine.succeed("curl -fsS http://127.0.0.1:8000/health")
        machine.require_unit_state(front)
        machine.require_unit_state(worker, "inactive")
        machine.succeed("ask /v1/images/generate '{\"prompt\":\"a red kite\"}'")
        machine.require_unit_state(worker)

    with subtest("what has nothing to do ends, and starts again"):
        idle()
        machine.succeed("journalctl -u codex-image-service.service | grep 'stopped: idle'")
        machine.succeed("journalctl -u codex-image-worker.service | grep 'stopped: idle'")
        machine.succeed("ask /v1/images/generate '{\"prompt\":\"a second kite\"}'")
        machine.succeed("codex-image-service healthcheck unix:/run/codex-image-service/http.sock")
        machine.succeed("systemctl start codex-image-healthcheck.service")
        idle()

    with subtest("the first answer of a cold start is fast"):
        times = []
        for _ in range(10):
            machine.succeed(f"systemctl stop {front}")
            said = machine.succeed("curl -fsS -o /dev/null -w '%{time_starttransfer}' http://127.0.0.1:8000/health")
            times.append(float(said))
        machine.log(f"cold starts: {sorted(times)}")

    with subtest("however often it starts, it is never one time too often"):
        for _ in range(25):
            machine.succeed(f"systemctl stop {front}", "curl -fsS http://127.0.0.1:8000/health")
        machine.require_unit_state("codex-image-service.socket")
        t.assertEqual(machine.get_unit_property(front, "Result"), "success")

    with subtest("a new front under 20 waiting callers: 20 pictures, each paid once"):
        machine.succeed(f": > {paid}")
        machine.succeed("systemd-run --unit=callers --service-type=exec --property=StandardOutput=file:/root/report callers 20 1.5")
        machine.wait_until_succeeds(f"test $(wc -l < {paid}) -ge 3")
        # As a switch to another version would.
        machine.succeed(f"systemctl restart {front}")
        machine.wait_until_succeeds(f"test $(wc -l < {paid}) -ge 9")
        machine.succeed(f"systemctl restart {front}")
        machine.wait_until_fails("systemctl is-active callers.service", timeout=90)
        report = json.loads(machine.succeed("cat /root/report"))
        machine.log(f"sent away: {report['sent_away']}")
        t.assertEqual(len(set(report["pictures"])), 20)
        t.assertEqual(len(set(report["jobs"])), 20)
        t.assertGreater(report["sent_away"], 0)
        t.assertEqual(report["without_job"], 0)
        t.assertEqual(set(report["retry_after"]), {"1"})
        t.assertEqual(machine.succeed(f"wc -l < {paid}").strip(), "20")

    with subtest("a new worker lets what it draws end"):
        machine.succeed(f": > {paid}")
        machine.succeed("systemd-run --unit=one --service-type=exec --property=StandardOutput=file:/root/one callers 1 6")
        machine.wait_until_succeeds(f"systemctl is-active {worker}")
        machine.wait_until_succeeds("curl -fsS http://127.0.0.1:8000/v1/images/jobs -H \"Authorization: Bearer $(cat /root/key)\" | grep '\"phase\":\"drawing\"'")
        machine.succeed(f"systemctl restart {worker}")
        machine.wait_until_fails("systemctl is-active one.service", timeout=60)
        t.assertEqual(len(json.loads(machine.succeed("cat /root/one"))["pictures"]), 1)
        t.assertEqual(machine.succeed(f"wc -l < {paid}").strip(), "1")
        t.assertEqual(machine.get_unit_property(worker, "Result"), "success")
  '';
}
