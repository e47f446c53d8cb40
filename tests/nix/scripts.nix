# The scripts of the tests in vm-tests/, in /etc/test-scripts, for tests/nix/check-scripts.
{ config, lib, ... }:
let
  script =
    file:
    let
      test = import (../../vm-tests + "/${file}");
    in
    if lib.isFunction test.testScript then
      test.testScript { nodes.machine = config; } # of no test, but of its form
    else
      test.testScript;
in
{
  imports = [ ../../nixos/render/default.nix ];
  environment.etc = lib.mapAttrs' (
    file: _: lib.nameValuePair "test-scripts/${lib.removeSuffix ".nix" file}.py" { text = script file; }
  ) (lib.filterAttrs (file: _: lib.hasSuffix ".nix" file) (builtins.readDir ../../vm-tests));
}
