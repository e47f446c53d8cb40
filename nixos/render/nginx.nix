# The configuration behind tests/nix/nginx.conf: what the module adds to nginx, in NixOS's
# /etc/codex-image-nginx.conf. NixOS's whole file differs from release to release.
{ config, lib, ... }:
let
  inherit (config.services) nginx;
  inherit (lib) optionalString;

  indented =
    text: lib.concatMapStrings (line: "    ${line}\n") (lib.splitString "\n" (lib.trim text));
  location =
    { name, value }:
    "location ${name} {\n"
    + optionalString (value.alias != null) "    alias ${value.alias};\n"
    + optionalString (value.proxyPass != null) "    proxy_pass ${value.proxyPass};\n"
    + optionalString (value.return != null) "    return ${toString value.return};\n"
    + optionalString (value.extraConfig != "") (indented value.extraConfig)
    + "}\n";
  # In the order in which NixOS writes them, which counts between patterns.
  locations = lib.sortOn ({ value, ... }: value.priority) (
    lib.attrsToList nginx.virtualHosts."home.example".locations
  );
in
{
  imports = [ ./collect.nix ];
  services.codex-image-service = {
    enable = true;
    accounts.main = { };
    nginx = {
      enable = true;
      virtualHost = "home.example";
      path = "/pictures";
    };
  };
  environment.etc."codex-image-nginx.conf".text =
    lib.trim nginx.commonHttpConfig + "\n\n" + lib.concatMapStringsSep "\n" location locations;
}
