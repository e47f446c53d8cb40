# What was accepted is drawn, whatever is killed meanwhile, and paid once for each picture.
{
  name = "codex-image-queue-survives";
  nodes.machine.imports = [ ./lib/node.nix ];

  testScript = ''
    import json

    front, worker = "codex-image-service.service", "codex-image-worker.service"
    paid = "/var/lib/codex-image-worker/home/payments.log"
    machine.wait_for_unit("codex-image-service.socket")
    machine.succeed("log-in main", "codex-image-service keys create laptop > /root/key")

    def submit(count, seconds):
        body = json.dumps({"prompt": f"a red kite [fake sleep={seconds}]"})
        return [json.loads(machine.succeed(f"ask /v1/images/jobs '{body}'"))["id"] for _ in range(count)]

    def states():
        "By the store: to ask the service would start it."
        said = machine.succeed("sqlite3 -readonly /var/lib/codex-image-service/codex-image-service.db 'SELECT id, state FROM jobs'")
        return dict(line.split("|") for line in said.split())

    def all_succeed(jobs):
        for job in jobs:
            machine.wait_until_succeeds(
                "sqlite3 -readonly /var/lib/codex-image-service/codex-image-service.db"
                f" \"SELECT state FROM jobs WHERE id = '{job}'\" | grep -qx succeeded",
                timeout=90,
            )

    with subtest("front and worker killed"):
        jobs = submit(6, 1)
        machine.wait_until_succeeds(f"test $(wc -l < {paid}) -ge 1")
        codexes = machine.succeed("pgrep -u codex-image-worker -f app-server").split()
        machine.succeed(f"systemctl kill --signal=KILL {front} {worker}")
        # The worker that comes next starts another.
        for codex in codexes:
            machine.wait_until_fails(f"test -e /proc/{codex}", timeout=10)
        all_succeed(jobs)
        lines = machine.succeed(f"cat {paid}").split()
        t.assertEqual(len(set(lines)), 6)
        t.assertEqual(len(lines), 6)

    with subtest("a power cut: what was queued is taken up after the boot, without a request"):
        machine.succeed(f": > {paid}")
        jobs = submit(4, 2)
        machine.succeed("sync")
        machine.crash()
        machine.start()
        t.assertLessEqual(set(jobs), set(states()))
        all_succeed(jobs)
        t.assertEqual(len(set(machine.succeed(f"cat {paid}").split())), 4)
        machine.require_unit_state(front, "inactive")
  '';
}
