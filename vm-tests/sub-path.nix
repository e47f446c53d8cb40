# Below a path of somebody else's virtual host, and the rest of the host stays as it was.
{
  name = "codex-image-sub-path";
  nodes.machine = {
    imports = [ ./lib/node.nix ];
    networking.hosts."127.0.0.1" = [ "home.test" ];
    environment.etc.admin-password = {
      text = "a rather long password";
      mode = "0400";
    };
    services.nginx.virtualHosts."home.test" = {
      locations."/".return = "200 somebody-else";
    };
    services.codex-image-service = {
      adminPasswordFile = "/etc/admin-password";
      nginx = {
        enable = true;
        virtualHost = "home.test";
        path = "/pictures";
      };
    };
  };

  testScript =
    { nodes, ... }:
    ''
      import json

      site = "http://home.test/pictures"
      t.assertEqual("${nodes.machine.services.codex-image-service.settings.public_base_url}", site)
      machine.wait_for_unit("nginx.service")
      machine.wait_for_unit("codex-image-service.socket")
      machine.succeed("log-in main", "codex-image-service keys create laptop > /root/key")

      with subtest("API and pictures below the path"):
          made = json.loads(machine.succeed(f"ask /v1/images/generate '{{\"prompt\":\"a red kite\"}}' {site}"))
          url = made["images"][0]["url"]
          t.assertTrue(url.startswith(f"{site}/generated/"), url)
          machine.succeed(f"curl -fsS -o /tmp/x.png {url}", "head -c 8 /tmp/x.png | grep -q PNG")
          machine.succeed(f"curl -fsS {site}/health")
          t.assertIn("file_not_found", machine.succeed(f"curl -sS {site}/generated/img_0123456789abcdef0123456789abcdef.png"))

      with subtest("admin pages below the path"):
          machine.succeed(f"curl -fsS {site}/admin/login | grep 'action=\"/pictures/admin/login\"'")
          login = f"curl -sS -o /dev/null -w '%{{http_code}} %{{redirect_url}}' -c /tmp/jar -H 'Origin: http://home.test' {site}/admin/login"
          said = machine.succeed(f"{login} -d username=admin --data-urlencode password@/etc/admin-password")
          t.assertEqual(said, f"303 {site}/admin")
          machine.succeed(f"curl -fsS -b /tmp/jar {site}/admin | grep 'a red kite'")

      with subtest("the rest of the host is somebody else's"):
          t.assertEqual(machine.succeed("curl -fsS http://home.test/"), "somebody-else")
          t.assertEqual(machine.succeed("curl -fsS http://home.test/generated/x"), "somebody-else")
          t.assertIn("404", machine.succeed(f"curl -sS -o /dev/null -w '%{{http_code}}' {site}/metrics"))
    '';
}
