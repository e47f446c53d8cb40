# What happens once in a while, each a unit that can be started by hand, too.
{ config, lib, ... }:
let
  cfg = config.services.codex-image-service;
  names = import ./names.nix;
  hardening = import ./hardening.nix { inherit lib cfg; };

  oneshot = description: args: restrictions: {
    inherit description;
    documentation = [ "man:codex-image-service(1)" ];
    enableDefaultPath = false;
    unitConfig.RequiresMountsFor = hardening.folders;
    serviceConfig = restrictions // {
      Type = "oneshot";
      EnvironmentFile = lib.mkIf (cfg.environmentFile != null) cfg.environmentFile;
      ExecStart = lib.concatStringsSep " " (
        [
          (lib.getExe cfg.package)
          "--config"
          cfg.configFile
        ]
        ++ args
      );
    };
  };
  worker = if cfg.split then "codex-image-worker" else "codex-image-service";
  asWorker = hardening.common // hardening.offline // hardening.asWorker;

  timer = description: onCalendar: delay: {
    inherit description;
    wantedBy = [ "timers.target" ];
    timerConfig = {
      OnCalendar = onCalendar;
      Persistent = true;
      RandomizedDelaySec = lib.mkDefault delay;
    };
  };
in
{
  config = lib.mkIf cfg.enable {
    systemd.services.codex-image-cleanup = lib.mkIf cfg.cleanup.enable (
      lib.recursiveUpdate (oneshot "Remove pictures that have expired" [ "cleanup" ] asWorker) {
        environment.HOME = names.homeDir;
      }
    );
    systemd.timers.codex-image-cleanup = lib.mkIf cfg.cleanup.enable (
      timer "Remove pictures that have expired" cfg.cleanup.onCalendar "10min"
    );

    systemd.services.codex-image-backup = lib.mkIf cfg.backup.enable (
      lib.recursiveUpdate
        (oneshot "Copy the database of the Codex image service" [
          "backup"
          "--keep"
          (toString cfg.backup.keep)
          cfg.backup.path
        ] asWorker)
        {
          environment.HOME = names.homeDir;
          unitConfig.RequiresMountsFor = hardening.folders ++ [ cfg.backup.path ];
          serviceConfig.ReadWritePaths = asWorker.ReadWritePaths ++ [ cfg.backup.path ];
        }
    );
    systemd.timers.codex-image-backup = lib.mkIf cfg.backup.enable (
      timer "Copy the database of the Codex image service" cfg.backup.onCalendar "30min"
    );

    # For a monitor, or by hand: fails unless the front answers.
    systemd.services.codex-image-healthcheck =
      oneshot "Ask the Codex image service whether it is well"
        [
          "healthcheck"
          "unix:${names.httpSocket}"
        ]
        hardening.front;

    # What was queued when the machine went down goes on without waiting for the next request, and a
    # login that nobody uses is renewed: both need a worker that runs. Two timers, for the delay of
    # one would put off the start after a boot as well.
    systemd.timers.${worker} = lib.mkIf cfg.onDemand {
      description = "Take up what was left";
      wantedBy = [ "timers.target" ];
      timerConfig = {
        OnBootSec = "10s";
        AccuracySec = "1s";
      };
    };
    systemd.timers.codex-image-keep-alive =
      lib.mkIf (cfg.onDemand && cfg.keepAlive && cfg.accounts != { })
        (
          lib.recursiveUpdate (timer "Renew idle logins" "04:30" "1h") {
            timerConfig.Unit = "${worker}.service";
          }
        );
  };
}
