# From options to the file that the service reads.
{
  config,
  lib,
  pkgs,
  ...
}:
let
  cfg = config.services.codex-image-service;
  names = import ./names.nix;
  format = pkgs.formats.toml { };
  file = format.generate "codex-image-service.toml" (
    lib.filterAttrs (_: value: value != null) cfg.settings
  );
  prefix = lib.removeSuffix "/" cfg.nginx.path;
  host = config.services.nginx.virtualHosts.${cfg.nginx.virtualHost};
  scheme = if host.addSSL || host.forceSSL || host.onlySSL then "https" else "http";
  name = if host.serverName != null then host.serverName else cfg.nginx.virtualHost;
in
{
  config = lib.mkIf cfg.enable {
    services.codex-image-service = {
      settings = {
        state_dir = cfg.stateDir;
        run_dir = names.bellsDir;
        # Out of the front's reach.
        codex_state_dir = names.codexDir;
        codex_keep_alive = cfg.keepAlive;
        # A timer does it, also while nothing runs.
        cleanup_interval_hours = lib.mkIf cfg.cleanup.enable (lib.mkDefault 0);
        codex_homes = lib.mkIf (cfg.accounts != { }) (
          lib.concatMapStringsSep ":" (label: "${label}=${names.loginsDir}/${label}") (
            lib.attrNames cfg.accounts
          )
        );
        public_base_url = lib.mkDefault (
          if cfg.nginx.enable then "${scheme}://${name}${prefix}" else "http://localhost:8000"
        );
        admin_url_prefix = lib.mkDefault (lib.optionalString cfg.nginx.enable prefix);
      };
      configFile = lib.mkDefault (
        if cfg.settingsCheck then
          pkgs.runCommand "codex-image-service.toml" { } ''
            # Of the builder's own environment nothing may count as a setting.
            env -i HOME="$TMPDIR" ${lib.getExe cfg.package} --config ${file} check-config
            cp ${file} $out
          ''
        else
          file
      );
    };
    # Where the program looks by itself: `check-config` and the like work for everybody.
    environment.etc."codex-image-service/config.toml".source = cfg.configFile;
  };
}
