# Each wrong configuration is refused before anything is built, in words that name the option.
{
  lib,
  pkgs,
  module,
}:
let
  wrong = import ./wrong.nix;
  right = [
    {
      accounts.main = { };
      stateDir = "/homes/pictures";
      settings.database_url = "sqlite:////homes/pictures/other.db";
      listen = [
        "8000"
        "0.0.0.0:8001"
        "[fd00::10]:8001"
        "[::]:8002"
        "127.0.0.1:8003"
        "192.168.1.5:8003"
        "[::1]:8003"
        "/run/other/http.sock"
        "/run/third/http.sock"
      ];
    }
    { accounts.main = { }; }
    { settings.codex_engine = "demo"; }
    {
      settings = {
        codex_engine = "demo";
        codex_homes = "";
      };
    }
    {
      accounts.main = { };
      stateDir = "/srv/pictures";
      backup = {
        enable = true;
        path = "/srv/pictures/backup";
      };
    }
    {
      accounts.main.authFile = "/run/secrets/auth";
      split = false;
      nginx = {
        enable = true;
        virtualHost = "home.example";
        path = "/pictures";
      };
    }
  ];

  # Of NixOS no more than the module asks for its assertions: all of it takes seconds each time.
  surroundings =
    { lib, ... }:
    let
      inherit (lib) mkOption types;
      off = mkOption {
        type = types.bool;
        default = false;
      };
      port =
        default:
        mkOption {
          type = types.port;
          inherit default;
        };
      list = mkOption {
        type = types.listOf types.raw;
        default = [ ];
      };
      host.options = {
        addSSL = off;
        forceSSL = off;
        listen = list;
        listenAddresses = list;
        onlySSL = off;
        serverAliases = list;
        serverName = mkOption {
          type = types.nullOr types.str;
          default = null;
        };
        locations = mkOption { type = types.raw; };
      };
    in
    {
      options = {
        assertions = list;
        services.nginx = {
          defaultHTTPListenPort = port 80;
          defaultListenAddresses = list;
          defaultSSLListenPort = port 443;
          virtualHosts = mkOption {
            type = types.attrsOf (types.submodule host);
            default = { };
          };
        };
      };
      config._module = {
        args = { inherit pkgs; };
        check = false;
      };
    };
  failing =
    settings:
    let
      evaluated = lib.evalModules {
        modules = [
          module
          surroundings
          {
            services.codex-image-service = settings // {
              enable = true;
            };
          }
        ];
      };
    in
    map (a: a.message) (lib.filter (a: !a.assertion) evaluated.config.assertions);

  isSaid = words: settings: lib.any (lib.hasInfix words) (failing settings);
  unsaid = lib.attrNames (lib.filterAttrs (words: settings: !isSaid words settings) wrong);
  refused = lib.concatMap failing right;
in
assert lib.assertMsg (unsaid == [ ]) "not refused: ${lib.concatStringsSep "; " unsaid}";
assert lib.assertMsg (refused == [ ]) "refused: ${lib.concatStringsSep "; " refused}";
pkgs.runCommand "codex-image-assertions" { } "touch $out"
