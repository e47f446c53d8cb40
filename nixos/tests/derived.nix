# What is derived from the options: how picture URLs begin, which ports are opened, what is warned of, and
# whose program runs. For values.nix.
{
  lib,
  pkgs,
  system,
  module,
  nixosSystem,
}:
let
  evaluated =
    extra: settings:
    (nixosSystem {
      inherit system;
      modules = [
        module
        extra
        {
          services.codex-image-service = settings // {
            enable = true;
          };
        }
      ];
    }).config;

  # The programs of a host to whose nixpkgs this is done. That the module comes twice is no harm.
  programs =
    overlay:
    let
      inherit
        ((evaluated {
          imports = [ { imports = [ module ]; } ];
          nixpkgs.overlays = [ overlay ];
        } { accounts.main = { }; }).services
        )
        codex-image-service
        ;
    in
    map (package: package.outPath) [
      codex-image-service.package
      codex-image-service.codexPackage
    ];
  old = _: prev: {
    rustPlatform = throw "a Rust that is too old";
    codex = prev.hello // {
      version = "0.121.9";
    };
  };
  overlaid = _: prev: {
    codex-image-service = prev.hello;
    codex = prev.jq // {
      version = "1.0.0";
    };
  };

  hours =
    settings:
    (evaluated { } (settings // { accounts.main = { }; }))
    .services.codex-image-service.settings.cleanup_interval_hours;

  look =
    _: what:
    let
      onHost = what ? virtualHost;
      config =
        evaluated
          {
            services.nginx.virtualHosts = lib.mkIf onHost { ${what.virtualHost or ""} = what.host or { }; };
          }
          (
            {
              accounts.main = { };
              openFirewall = what.openFirewall or false;
              nginx = lib.optionalAttrs onHost {
                enable = true;
                inherit (what) virtualHost;
                path = what.path or "/";
              };
            }
            // builtins.intersectAttrs {
              listen = null;
              settings = null;
            } what
          );
      warnings = lib.filter (lib.hasInfix "services.codex-image-service") config.warnings;
      warned = what.warned or null;
    in
    {
      is = {
        url = config.services.codex-image-service.settings.public_base_url;
        ports = config.networking.firewall.allowedTCPPorts;
        warnings = map (text: if warned != null && lib.hasInfix warned text then warned else text) warnings;
      };
      should = {
        inherit (what) url;
        ports = what.ports or [ ];
        warnings = lib.optional (warned != null) warned;
      };
    };
in
lib.mapAttrs look (import ./seen.nix)
// {
  "a host with an old nixpkgs" = {
    is = programs old;
    should = [
      pkgs.codex-image-service.outPath
      pkgs.codex.outPath
    ];
  };
  "a host with the overlay" = {
    is = programs overlaid;
    should = [
      pkgs.hello.outPath
      pkgs.jq.outPath
    ];
  };
  # Nothing removes pictures unless it was asked to.
  "hours between clean-ups" = {
    is = map hours [
      { }
      { cleanup.enable = false; }
      { settings.cleanup_interval_hours = 3; }
    ];
    should = [
      0
      0
      3
    ];
  };
}
