# Who switches the clean-up off keeps the pictures, also when the worker starts again.
{
  name = "codex-image-no-cleanup";
  nodes.machine = {
    imports = [ ./lib/node.nix ];
    services.codex-image-service = {
      settings.image_retention_days = 0.0001; # 9 s
      cleanup.enable = false;
    };
  };

  testScript = ''
    import json

    machine.wait_for_unit("codex-image-worker.socket")
    machine.succeed("log-in main", "codex-image-service keys create laptop > /root/key")
    draw = "ask /v1/images/generate '{\"prompt\":\"a red kite\"}'"
    url = json.loads(machine.succeed(draw))["images"][0]["url"]
    picture = f"/var/lib/codex-image-service/generated/{url.rsplit('/', 1)[1]}"
    machine.succeed(f"test -s {picture}")

    with subtest("there is no timer"):
        machine.fail("systemctl cat codex-image-cleanup.timer", "systemctl cat codex-image-cleanup.service")

    with subtest("a picture past its time outlives a new worker, which draws another"):
        machine.wait_until_succeeds(f"test $(($(date +%s) - $(stat -c %Y {picture}))) -gt 10")
        machine.succeed("systemctl restart codex-image-worker.service", draw)
        machine.succeed(f"test -s {picture}")

    with subtest("by hand it goes"):
        machine.succeed("codex-image-service cleanup")
        machine.fail(f"test -e {picture}")
  '';
}
