# The state of the former version is taken over: its key opens, its queued job is drawn.
{
  name = "codex-image-upgrade";
  nodes.machine =
    { lib, pkgs, ... }:
    let
      all = lib.attrNames (builtins.readDir ../migrations);
      former = map (file: "${../migrations}/${file}") (lib.init (lib.naturalSort all));
    in
    {
      imports = [ ./lib/node.nix ];
      environment.systemPackages = [
        (pkgs.writeShellScriptBin "former" ''
          exec ${pkgs.python3}/bin/python3 ${./lib/former.py} "$1" ${lib.escapeShellArgs former}
        '')
      ];
      # There is nothing to take up yet when the machine starts.
      systemd.timers.codex-image-worker.enable = false;
    };

  testScript = ''
    import json

    machine.wait_for_unit("codex-image-service.socket")
    machine.succeed(
        "log-in main",
        "setpriv --reuid=codex-image --regid=codex-image --clear-groups sh -c 'umask 0007 && cd / &&"
        " former /var/lib/codex-image-service/codex-image-service.db' > /root/key",
    )
    with subtest("the key of old opens, the job of old is there and is drawn"):
        jobs = "curl -fsS http://127.0.0.1:8000/v1/images/jobs -H \"Authorization: Bearer $(cat /root/key)\""
        t.assertEqual(len(json.loads(machine.succeed(jobs))["data"]), 1)
        machine.succeed("ask /v1/images/generate '{\"prompt\":\"a new kite\"}'")
        machine.wait_until_succeeds(f"test $({jobs} | jq '[.data[] | select(.status == \"succeeded\")] | length') = 2", timeout=60)

    with subtest("the log says that the database was brought up to date"):
        machine.succeed("journalctl -u codex-image-service.service | grep -i 'database'")
  '';
}
