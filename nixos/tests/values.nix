# What of a configuration no rendered unit shows.
{
  lib,
  pkgs,
  system,
  module,
  nixosSystem,
}:
let
  evaluate =
    settings:
    nixosSystem {
      inherit system;
      modules = [
        module
        {
          services.codex-image-service = {
            enable = true;
            accounts.main = { };
            openFirewall = true;
          }
          // settings;
        }
      ];
    };
  alone = evaluate {
    listen = [
      "0.0.0.0:8000"
      "[::]:8001"
      "8002"
      "/run/other/http.sock"
    ];
  };
  nginx = {
    enable = true;
    virtualHost = "home.example";
  };
  proxied = evaluate { inherit nginx; };
  encrypted = nixosSystem {
    inherit system;
    modules = [
      module
      {
        services.codex-image-service = {
          enable = true;
          accounts.main = { };
          openFirewall = true;
          inherit nginx;
        };
        services.nginx.virtualHosts."home.example" = {
          forceSSL = true;
          sslCertificate = "/run/certificate.pem";
          sslCertificateKey = "/run/key.pem";
        };
      }
    ];
  };
  closed = evaluate {
    inherit nginx;
    openFirewall = false;
  };
  ports = evaluated: evaluated.config.networking.firewall.allowedTCPPorts;

  container = pkgs.callPackage ../container.nix { dockerTools.streamLayeredImage = lib.id; };
  labels = container.config.Labels;

  options = lib.filter (option: option.visible && !option.internal) (
    lib.optionAttrSetToDocList {
      services.codex-image-service = alone.options.services.codex-image-service;
    }
  );
  undocumented = lib.filter (
    option:
    (option.description or null) == null
    || !(option ? example) && option.name != "services.codex-image-service.enable"
  ) options;

  expected = {
    "ports of `listen`" = {
      is = ports alone;
      should = [
        8000
        8001
        8002
      ];
    };
    "ports of nginx" = {
      is = ports proxied;
      should = [ 80 ];
    };
    "ports of nginx with a certificate" = {
      is = ports encrypted;
      should = [
        80
        443
      ];
    };
    "ports without openFirewall" = {
      is = ports closed;
      should = [ ];
    };
    # Otherwise a switch would close the sockets, on which new connections wait for the new process.
    "stopIfChanged" = {
      is = lib.mapAttrs (_: service: service.stopIfChanged) {
        inherit (alone.config.systemd.services) codex-image-service codex-image-worker;
      };
      should = {
        codex-image-service = false;
        codex-image-worker = false;
      };
    };
    "options without a description or an example" = {
      is = map (option: option.name) undocumented;
      should = [ ];
    };
    # The list of options is not empty for another reason.
    "options are found" = {
      is = lib.length options > 20;
      should = true;
    };
    "the container's user" = {
      is = container.config.User;
      should = "1000:1000";
    };
    "the container's volume" = {
      is = lib.attrNames container.config.Volumes;
      should = [ container.config.WorkingDir ];
    };
    "the container's labels" = {
      is = lib.attrNames labels ++ [ labels."org.opencontainers.image.version" ];
      should = [
        "org.opencontainers.image.description"
        "org.opencontainers.image.licenses"
        "org.opencontainers.image.title"
        "org.opencontainers.image.version"
        (lib.importTOML ../../Cargo.toml).package.version
      ];
    };
    "the container's healthcheck" = {
      is = lib.last container.config.Healthcheck.Test;
      should = "healthcheck";
    };
  };
  derived = import ./derived.nix {
    inherit
      lib
      pkgs
      system
      module
      nixosSystem
      ;
  };
  wrong = lib.filterAttrs (_: value: value.is != value.should) (expected // derived);
  said = lib.mapAttrsToList (
    name: value: "${name}: ${builtins.toJSON value.is}, not ${builtins.toJSON value.should}"
  ) wrong;
in
assert lib.assertMsg (wrong == { }) (lib.concatStringsSep "; " said);
pkgs.runCommand "codex-image-values" { } "touch $out"
