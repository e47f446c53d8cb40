# The README's lines for NixOS, as a new user copies them: they evaluate, boot, and make a picture.
let
  part =
    text: from: to:
    builtins.head (split to (builtins.elemAt (split from text) 1));
  # Plain words, not patterns.
  split =
    word: text:
    builtins.filter builtins.isString (
      builtins.split (builtins.replaceStrings [ "." "{" "$" ] [ "\\." "\\{" "\\$" ] word) text
    );
  section = part (builtins.readFile ../README.md) "## NixOS" "## Quick start";
  configuration = part section "the configuration is" "After the switch";
  commands = part section "make a key:" "Nothing runs until";
in
{
  name = "codex-image-readme";
  nodes.machine = {
    imports = [
      ./lib/node.nix
      (import (builtins.toFile "configuration.nix" configuration) {
        inputs.codex-image-service.nixosModules.default = ../nixos/module.nix;
      })
    ];
    networking.hosts."127.0.0.1" = [ "pictures.home.example" ];
    environment.etc."commands".text = commands;
  };

  testScript = ''
    machine.wait_for_unit("nginx.service")
    machine.wait_for_unit("codex-image-service.socket")
    said = machine.succeed(
        "cd /tmp; sudo() { \"$@\"; }; . <(sed -e 's/keys create laptop .*/keys create laptop > key; KEY=$(cat key)/' /etc/commands)"
    )
    t.assertIn('"status":"succeeded"', said.replace(" ", ""))
  '';
}
