# What the units may do. `systemd-analyze security` of systemd 257 gives the front at most 0.6 and
# the worker at most 1.5; vm-tests/hardening.nix asserts that.
{ lib, cfg }:
let
  names = import ./names.nix;
in
rec {
  # What front and worker both use.
  folders = [
    cfg.stateDir
  ]
  ++ lib.filter (folder: !lib.hasPrefix "${cfg.stateDir}/" folder) [
    cfg.settings.generated_dir
    cfg.settings.codex_workdir
  ];

  common = {
    CapabilityBoundingSet = "";
    DevicePolicy = "closed";
    KeyringMode = "private";
    LockPersonality = true;
    NoNewPrivileges = true;
    PrivateDevices = true;
    PrivateIPC = true;
    PrivateMounts = true;
    PrivateTmp = true;
    PrivateUsers = true;
    ProcSubset = "pid";
    ProtectClock = true;
    ProtectControlGroups = true;
    ProtectHome = true;
    ProtectHostname = true;
    ProtectKernelLogs = true;
    ProtectKernelModules = true;
    ProtectKernelTunables = true;
    ProtectProc = "invisible";
    ProtectSystem = "strict";
    RemoveIPC = true;
    RestrictNamespaces = true;
    RestrictRealtime = true;
    # The folders for the group are made by tmpfiles: nothing here needs to set such a bit.
    RestrictSUIDSGID = true;
    SystemCallArchitectures = "native";
    SystemCallErrorNumber = "EPERM";
    SystemCallFilter = [
      "@system-service"
      "~@privileged @resources"
    ];
    ReadWritePaths = folders ++ [ names.bellsDir ];
    # What one makes the other removes and replaces.
    UMask = "0007";
    Group = names.group;
    Slice = names.slice;
  };

  # No network of its own: systemd hands it its sockets, nginx and the worker are reached by paths.
  offline = {
    IPAddressDeny = "any";
    MemoryDenyWriteExecute = true;
    PrivateNetwork = true;
    RestrictAddressFamilies = "AF_UNIX";
  };

  front =
    common
    // offline
    // {
      User = names.front;
      # More than all need: the front owns and locks nothing, and changes nobody's identity.
      SystemCallFilter = common.SystemCallFilter ++ [ "~@aio @chown @keyring @memlock @setuid" ];
      InaccessiblePaths = [
        "-${names.privateDir}"
      ]
      ++ lib.optional cfg.backup.enable "-${cfg.backup.path}";
    };

  # A root of its own that has what it needs and nothing else: neither the logins nor other services'
  # state are there to be reached. It starts sooner so, too: with the machine's own root, systemd
  # takes every mount below /proc, /sys and /dev off again, and the kernel waits at each.
  ownRoot =
    front:
    lib.removeAttrs front [ "ReadWritePaths" ]
    // {
      RootDirectory = names.rootDir;
      BindPaths = map (lib.escape [ ":" ]) front.ReadWritePaths;
      BindReadOnlyPaths = [
        "-${builtins.storeDir}"
        "-/usr"
        "/etc"
        # The folder, not its sockets, as BindLogSockets= would: those may be made anew.
        "/run/systemd/journal"
      ];
      BindLogSockets = false;
      # Of this root. A folder for all may be the one above them.
      InaccessiblePaths = map (path: "-+${lib.removePrefix "-" path}") front.InaccessiblePaths;
    };

  # The worker's user, as far as its folders go.
  asWorker = {
    User = if cfg.split then names.worker else names.front;
    StateDirectory = [
      "codex-image-worker"
      "codex-image-worker/codex"
      "codex-image-worker/home"
      "codex-image-worker/logins"
    ]
    ++ map (label: "codex-image-worker/logins/${label}") (lib.attrNames cfg.accounts);
    StateDirectoryMode = "0700";
  };

  # Codex runs in here: it reaches out, and V8 needs memory that it can write and execute. It needs
  # no namespaces. Nothing can listen, also not on a port of the kernel's choice. UDP alone is bound,
  # for a resolver binds the socket that it asks by.
  online = {
    RestrictAddressFamilies = [
      "AF_UNIX"
      "AF_INET"
      "AF_INET6"
      # getaddrinfo() asks the kernel which kinds of addresses there are.
      "AF_NETLINK"
    ];
    SocketBindAllow = "udp";
    SocketBindDeny = "any";
    SystemCallFilter = common.SystemCallFilter ++ [ "~listen" ];
  };

  worker = common // asWorker // online;
}
