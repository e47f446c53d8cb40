# Each wrong configuration is refused before anything is built, in words that name the option.
{
  lib,
  pkgs,
  module,
}:
let
  wrong = {
    "accounts: at least one login" = { };
    "accounts: \"Main\": a label" = {
      accounts.Main = { };
    };
    "settings: admin_password would lie in the store" = {
      accounts.main = { };
      settings.admin_password = "secret";
    };
    "adminPasswordFile is in the store" = {
      accounts.main = { };
      adminPasswordFile = ../package.nix;
    };
    "accounts.main.authFile is in the store" = {
      accounts.main.authFile = "${builtins.storeDir}/auth.json";
    };
    "settings.codex_homes: logins are declared" = {
      settings = {
        codex_engine = "demo";
        codex_homes = "main=/home/me/.codex";
      };
    };
    "must be the same" = {
      accounts.main = { };
      settings.public_base_url = "https://home.example/pictures";
    };
    "settings.admin_url_prefix (\"/other\") is not the path" = {
      accounts.main = { };
      nginx = {
        enable = true;
        virtualHost = "home.example";
        path = "/pictures";
      };
      settings = {
        admin_url_prefix = "/other";
        public_base_url = "https://home.example/other";
      };
    };
    "openFirewall: there is neither" = {
      accounts.main = { };
      listen = [ ];
      openFirewall = true;
    };
    "listen: \"localhost:8000\", \"pictures.sock\": what is" = {
      accounts.main = { };
      listen = [
        "127.0.0.1:8000"
        "localhost:8000"
        "pictures.sock"
      ];
    };
    "stateDir (\"/home/me/pictures\") is in a home" = {
      accounts.main = { };
      stateDir = "/home/me/pictures";
    };
    "settings.generated_dir (\"/tmp\") is in a home" = {
      accounts.main = { };
      settings.generated_dir = "/tmp";
    };
    "backup.path (\"/root/copies\") is in a home" = {
      accounts.main = { };
      backup = {
        enable = true;
        path = "/root/copies";
      };
    };
    "settings.database_url (\"sqlite:////srv/pictures.db\") is not in" = {
      accounts.main = { };
      settings.database_url = "sqlite:////srv/pictures.db";
    };
  };
  right = [
    {
      accounts.main = { };
      stateDir = "/homes/pictures";
      settings.database_url = "sqlite:////homes/pictures/other.db";
      listen = [
        "8000"
        "0.0.0.0:8001"
        "[::]:8002"
        "[fd00::10]:8000"
        "/run/other/http.sock"
      ];
    }
    { accounts.main = { }; }
    { settings.codex_engine = "demo"; }
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
      list = mkOption {
        type = types.listOf types.raw;
        default = [ ];
      };
      host.options = {
        addSSL = off;
        forceSSL = off;
        onlySSL = off;
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
        services.nginx.virtualHosts = mkOption {
          type = types.attrsOf (types.submodule host);
          default = { };
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
