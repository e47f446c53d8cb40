# A login that nobody uses is renewed before it expires, by a worker that a timer starts and that
# ends again.
{
  name = "codex-image-keep-alive";
  nodes.machine = {
    imports = [ ./lib/node.nix ];
    services.codex-image-service.idleExit.worker = 2;
  };

  testScript = ''
    import base64
    import json
    import time

    worker = "codex-image-worker.service"
    file = "/var/lib/codex-image-worker/logins/main/auth.json"

    def left():
        "For how many hours the login is good."
        token = json.loads(machine.succeed(f"cat {file}"))["tokens"]["access_token"].split(".")[1]
        return (json.loads(base64.urlsafe_b64decode(token + "=="))["exp"] - time.time()) / 3600

    def ends():
        machine.wait_until_succeeds(f"test \"$(systemctl is-active {worker})\" = inactive", timeout=60)
        t.assertEqual(machine.get_unit_property(worker, "Result"), "success")

    machine.wait_for_unit("codex-image-worker.timer")
    machine.wait_for_unit("codex-image-keep-alive.timer")
    t.assertEqual(machine.get_unit_property("codex-image-keep-alive.timer", "Unit"), worker)
    t.assertEqual(machine.get_unit_property("codex-image-keep-alive.timer", "RandomizedDelayUSec"), "1h")
    # The start after the boot, which finds nobody signed in.
    machine.wait_until_succeeds(f"journalctl -u {worker} | grep 'stopped: idle'", timeout=60)
    ends()

    with subtest("what is good for long is left alone"):
        machine.succeed("log-in main", f"systemctl start {worker}")
        before = machine.succeed(f"cat {file}")
        ends()
        t.assertEqual(machine.succeed(f"cat {file}"), before)

    with subtest("what expires soon is renewed before the worker ends"):
        machine.succeed(f"make-auth main 7200 > /root/auth && cat /root/auth > {file}")
        t.assertLess(left(), 3)
        machine.succeed(f"systemctl start {worker}")
        ends()
        t.assertGreater(left(), 200)
        t.assertEqual(machine.succeed(f"stat -c %a:%U {file}").strip(), "600:codex-image-worker")
  '';
}
