# OpenAI's client for Python, unchanged. It needs a package set with openai-python, so this one runs
# with a real Nix alone; elsewhere it is evaluated, and tests/clients.rs drives the same client.
{
  name = "codex-image-sdk-clients";
  nodes.machine =
    { pkgs, ... }:
    {
      imports = [ ./lib/node.nix ];
      environment.systemPackages = [
        (pkgs.python3.withPackages (packages: [ packages.openai ]))
      ];
      environment.etc."client.py".text = ''
        import base64
        from openai import OpenAI

        key = open("/root/key").read().strip()
        client = OpenAI(base_url="http://127.0.0.1:8000/v1", api_key=key)
        made = client.images.generate(model="gpt-image-2", prompt="a red kite", size="1536x1024")
        picture = base64.b64decode(made.data[0].b64_json)
        assert picture.startswith(b"\x89PNG"), picture[:16]
        open("/tmp/kite.png", "wb").write(picture)
        changed = client.images.edit(model="gpt-image-2", prompt="make it night", image=open("/tmp/kite.png", "rb"))
        assert base64.b64decode(changed.data[0].b64_json) != picture
        assert "gpt-image-2" in [model.id for model in client.models.list()]
      '';
    };

  testScript = ''
    machine.wait_for_unit("codex-image-service.socket")
    machine.succeed("log-in main", "codex-image-service keys create laptop > /root/key")
    machine.succeed("python3 /etc/client.py")
  '';
}
