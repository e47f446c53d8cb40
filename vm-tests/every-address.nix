# Without nginx, for the machines of a LAN: one line is every address.
{
  name = "codex-image-every-address";
  nodes.machine = {
    imports = [ ./lib/node.nix ];
    networking.hosts."127.0.0.1" = [ "pictures.test" ];
    services.codex-image-service = {
      listen = [ "[::]:8000" ];
      openFirewall = true;
      settings.public_base_url = "http://pictures.test:8000";
    };
  };

  testScript =
    { nodes, ... }:
    ''
      import json

      t.assertEqual("${toString nodes.machine.networking.firewall.allowedTCPPorts}", "8000")
      machine.wait_for_unit("codex-image-service.socket")
      machine.succeed("log-in main", "codex-image-service keys create laptop > /root/key")

      with subtest("IPv4 and IPv6, also where the machine keeps them apart"):
          machine.succeed("sysctl -w net.ipv6.bindv6only=1", "systemctl restart codex-image-service.socket")
          for address in ["127.0.0.1", "[::1]"]:
              machine.succeed(f"curl -fsS http://{address}:8000/health")

      with subtest("a picture by the name that was set"):
          made = json.loads(machine.succeed("ask /v1/images/generate '{\"prompt\":\"a red kite\"}'"))
          url = made["images"][0]["url"]
          t.assertTrue(url.startswith("http://pictures.test:8000/generated/"), url)
          machine.succeed(f"curl -fsS -o /tmp/x.png {url}", "head -c 8 /tmp/x.png | grep -q PNG")
    '';
}
