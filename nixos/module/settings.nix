# From options to the file that the service reads.
{
  config,
  lib,
  pkgs,
  ...
}:
let
  cfg = config.services.codex-image-service;
  file =
    (pkgs.formats.toml { }).generate "codex-image-service.toml"
      (import ./written.nix { inherit lib cfg; }).settings;
in
{
  config = lib.mkIf cfg.enable {
    services.codex-image-service = {
      settings = {
        # Timers do it, also while nothing runs; without them nothing does.
        cleanup_interval_hours = lib.mkDefault 0;
        admin_url_prefix = lib.mkDefault (
          lib.optionalString cfg.nginx.enable (lib.removeSuffix "/" cfg.nginx.path)
        );
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
    # Where the program looks by itself, whoever runs it.
    environment.etc."codex-image-service/config.toml".source = cfg.configFile;
  };
}
