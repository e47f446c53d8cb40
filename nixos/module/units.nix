# Front and worker, and what starts them.
{ config, lib, ... }:
let
  cfg = config.services.codex-image-service;
  names = import ./names.nix;
  hardening = import ./hardening.nix { inherit lib cfg; };
  addresses = import ./addresses.nix { inherit lib; };
  program = lib.getExe cfg.package;
  command = lib.concatStringsSep " ";

  credentials = lib.mapAttrsToList (id: file: "${id}:${file}") (
    lib.filterAttrs (_: file: file != null) {
      admin-password = cfg.adminPasswordFile;
      admin-session-secret = cfg.sessionSecretFile;
    }
  );
  seeds = lib.mapAttrsToList (label: account: "auth-${label}:${account.authFile}") (
    lib.filterAttrs (_: account: account.authFile != null) cfg.accounts
  );

  documentation = [ "man:codex-image-service(1)" ];

  service = {
    inherit documentation;
    wantedBy = lib.mkIf (!cfg.onDemand) [ "multi-user.target" ];
    # systemd's own: what a service finds by PATH it does not need.
    enableDefaultPath = false;
    # Otherwise NixOS would close the sockets while it stops and starts: restarted, callers wait.
    stopIfChanged = false;
    # A fault that lasts is tried again at longer and longer intervals, until its cause is gone. A
    # limit would count ends for want of work, too, and take the socket along.
    startLimitIntervalSec = 0;
    unitConfig.RequiresMountsFor = hardening.folders;
    serviceConfig = {
      Type = "notify-reload";
      Restart = "on-failure";
      RestartSec = "200ms";
      RestartSteps = 6;
      RestartMaxDelaySec = "30s";
      TimeoutStartSec = "5min"; # a large database is brought up to date
      WatchdogSec = "1min";
      EnvironmentFile = lib.mkIf (cfg.environmentFile != null) cfg.environmentFile;
    };
  };
  idleExit = seconds: lib.mkIf cfg.onDemand { IDLE_EXIT_SECONDS = toString seconds; };

  # TERM goes to the service alone: it lets Codex finish, perhaps a refresh of the login, and what
  # of Codex is left at the end is killed.
  drains = {
    KillMode = "mixed";
    OOMPolicy = "continue"; # a Codex that took too much is replaced
    TimeoutStopSec = toString (builtins.ceil (cfg.settings.shutdown_grace_seconds + 60));
  };

  bySocket = name: {
    requires = [ "${name}.socket" ];
    after = [
      "${name}.socket"
      "network.target"
    ];
  };
in
{
  config = lib.mkIf cfg.enable {
    systemd.slices.system-codeximage = {
      description = "Codex image service";
      # Yields to everything else of the machine.
      sliceConfig = lib.mapAttrs (_: lib.mkDefault) {
        CPUWeight = 50;
        IOWeight = 50;
        MemoryHigh = "50%";
        MemoryMax = "75%";
      };
    };

    systemd.sockets.codex-image-service = {
      description = "Codex image service: HTTP";
      inherit documentation;
      wantedBy = [ "sockets.target" ];
      listenStreams = cfg.listen ++ [ names.httpSocket ];
      socketConfig = {
        Backlog = 1024;
        # [::] and a port alone are every address, whatever the machine's own idea is.
        BindIPv6Only = "both";
        # An address that the machine has not got yet would keep all of them from listening.
        FreeBind = true;
        Slice = names.slice;
        # Who reaches the folder reaches the socket. A user or a group here would be set by path, and
        # NixOS restarts no socket whose unit changes, as it would with nginx.
        SocketMode = "0666";
      };
    };

    systemd.sockets.codex-image-worker = lib.mkIf cfg.split {
      description = "Codex image service: the worker's doorbell";
      inherit documentation;
      wantedBy = [ "sockets.target" ];
      listenDatagrams = [ names.workerBell ];
      socketConfig = {
        FileDescriptorName = "worker.bell";
        Slice = names.slice;
        SocketMode = "0666"; # see above
      };
    };

    systemd.services.codex-image-service = lib.mkMerge [
      service
      (bySocket "codex-image-service")
      (lib.mkIf cfg.split {
        description = "Codex image service: front";
        wants = [ "codex-image-worker.socket" ];
        environment = idleExit cfg.idleExit.front;
        serviceConfig = hardening.ownRoot hardening.front // {
          ExecStart = command [
            program
            "--config"
            cfg.configFile
            "serve"
            "--role"
            "front"
          ];
          LoadCredential = credentials;
          TimeoutStopSec = "30s";
        };
      })
      (lib.mkIf (!cfg.split) {
        description = "Codex image service";
        wants = [ "network-online.target" ];
        after = [ "network-online.target" ];
        environment = lib.mkMerge [
          { HOME = names.homeDir; }
          (idleExit cfg.idleExit.worker)
        ];
        serviceConfig =
          hardening.worker
          // drains
          // {
            ExecStart = command [
              program
              "--config"
              cfg.configFile
              "serve"
            ];
            LoadCredential = credentials ++ seeds;
          };
      })
    ];

    systemd.services.codex-image-worker = lib.mkIf cfg.split (
      lib.mkMerge [
        service
        (bySocket "codex-image-worker")
        {
          description = "Codex image service: worker";
          wants = [ "network-online.target" ];
          after = [ "network-online.target" ];
          environment = lib.mkMerge [
            { HOME = names.homeDir; }
            (idleExit cfg.idleExit.worker)
          ];
          serviceConfig =
            hardening.worker
            // drains
            // {
              ExecStart = command [
                program
                "--config"
                cfg.configFile
                "serve"
                "--role"
                "worker"
              ];
              LoadCredential = seeds;
            };
        }
      ]
    );

    networking.firewall.allowedTCPPorts = lib.mkIf (cfg.openFirewall && !cfg.nginx.enable) (
      lib.unique (map (it: it.port) (lib.filter (it: !it.isLocal) (addresses.withPorts cfg.listen)))
    );
  };
}
