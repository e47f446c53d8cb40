# What a proxy must not get in the way of: large bodies, answers before a body has come, events as they
# happen, and a front that ends when it has nothing to do.
{
  name = "codex-image-nginx";
  nodes.machine =
    { pkgs, ... }:
    {
      imports = [ ./lib/node.nix ];
      networking.hosts."127.0.0.1" = [ "home.test" ];
      services.codex-image-service = {
        idleExit.front = 2;
        nginx = {
          enable = true;
          virtualHost = "home.test";
          path = "/pictures";
        };
      };
      environment.systemPackages = [
        (pkgs.writeShellScriptBin "through-nginx" ''
          exec ${pkgs.python3}/bin/python3 ${./lib/through-nginx.py} "$1" http://home.test/pictures "''${@:2}"
        '')
      ];
    };

  testScript =
    { nodes, ... }:
    let
      most = nodes.machine.services.codex-image-service.settings.max_request_body_bytes;
    in
    ''
      front = "codex-image-service.service"
      machine.wait_for_unit("nginx.service")
      machine.wait_for_unit("codex-image-service.socket")
      machine.succeed("log-in main", "codex-image-service keys create laptop > /root/key")

      with subtest("five references of 10 MiB"):
          t.assertEqual(machine.succeed("through-nginx references").strip(), "succeeded")

      with subtest("who has no key hears so before nginx has the body"):
          t.assertIn("invalid_api_key", machine.succeed("through-nginx stranger"))

      with subtest("what is too large, the service says"):
          said = machine.succeed("through-nginx too-large ${toString (most + 1)}")
          t.assertIn(" 413 ", said.splitlines()[0])
          t.assertIn("request_too_large", said)

      with subtest("events come as they happen"):
          # The picture is not drawn before the first of them was seen.
          events = machine.succeed("through-nginx events").split()
          t.assertEqual(events[0], "phase")
          t.assertEqual(events[-1], "result")

      with subtest("a request after the front has ended"):
          for _ in range(3):
              machine.wait_until_succeeds(f"test \"$(systemctl is-active {front})\" = inactive", timeout=40)
              machine.succeed("ask /v1/images/jobs '{\"prompt\":\"a red kite\"}' http://home.test/pictures")
    '';
}
