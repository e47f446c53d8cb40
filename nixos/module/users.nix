# Two users with one group, the folders that both use, and the worker's own.
{ config, lib, ... }:
let
  cfg = config.services.codex-image-service;
  names = import ./names.nix;
  nginx = config.services.nginx.user;

  owned = user: mode: {
    d = {
      inherit user mode;
      inherit (names) group;
    };
  };
  shared = owned "root" "2770";
  # As one process it is one user, who has the logins, too.
  ownerOfLogins = if cfg.split then names.worker else names.front;
  private = owned ownerOfLogins "0700";
  # What was the other user's before `split` changed.
  handedOver = {
    user = ownerOfLogins;
    inherit (names) group;
  };
  frontsSecret.z = {
    user = names.front;
    inherit (names) group;
    mode = "0600";
  };
  below = folder: children: map (child: "${folder}/${child}") children;
  # One that only the path itself matches.
  asPattern =
    path:
    let
      last = lib.stringLength path - 1;
    in
    "${lib.substring 0 last path}[${lib.substring last 1 path}]";
  mayPass.${"a+"}.argument = "user:${nginx}:--x";
in
{
  config = lib.mkIf cfg.enable {
    users.groups.${names.group} = { };
    users.users.${names.front} = {
      isSystemUser = true;
      description = "Codex image service";
      inherit (names) group;
    };
    users.users.${names.worker} = lib.mkIf cfg.split {
      isSystemUser = true;
      description = "Codex image service, Codex and the logins";
      inherit (names) group;
      home = names.homeDir;
    };

    # Of two users, so no StateDirectory= of either: each start would hand it over to one of them.
    # All are here, so that nobody needs chmod to make a folder for the group.
    systemd.tmpfiles.settings."10-codex-image-service" = lib.mkMerge [
      { ${names.runDir} = owned "root" "0750"; }
      (lib.mkIf cfg.split {
        ${names.rootDir}.d = {
          user = "root";
          group = "root";
          mode = "0755";
        };
        # Where programs that are in /usr look for their libraries.
        "${names.rootDir}/lib".L.argument = "usr/lib";
        "${names.rootDir}/lib64".L.argument = "usr/lib64";
      })
      (lib.genAttrs (
        [
          names.bellsDir
          cfg.stateDir
        ]
        ++ below cfg.stateDir [
          "references"
          "thumbnails"
        ]
        ++ [
          cfg.settings.generated_dir
        ]
      ) (_: shared))
      # Sticky: what the worker makes there the front cannot replace.
      { ${cfg.settings.codex_workdir} = owned "root" "3770"; }
      # Before the first start already: that is when one signs in.
      (lib.genAttrs (
        [
          names.privateDir
          names.codexDir
          names.homeDir
          names.loginsDir
        ]
        ++ below names.loginsDir (lib.attrNames cfg.accounts)
      ) (_: private))
      { ${names.privateDir}.Z = handedOver; }
      (lib.genAttrs (below cfg.stateDir [
        "admin-password"
        "session-secret"
      ]) (_: frontsSecret))
      (lib.mkIf cfg.backup.enable {
        ${cfg.backup.path}.d.mode = "0700";
        "${cfg.backup.path}/codex-image-service-*.db".z = handedOver;
      })
      (lib.mkIf cfg.nginx.enable { ${names.runDir} = mayPass; })
      # nginx passes through to the pictures and reads those, nothing beside them.
      (lib.mkIf (cfg.nginx.enable && cfg.nginx.servePictures) {
        ${cfg.stateDir} = mayPass;
        ${cfg.settings.generated_dir}.${"a+"}.argument = "user:${nginx}:--x,default:user:${nginx}:r--";
      })
    ];
    # From a folder of one user to a file of another systemd-tmpfiles does not go: the copies are
    # handed over while the folder is still the former user's. Patterns come last and in order, so
    # the folder is written as one.
    systemd.tmpfiles.settings."11-codex-image-backup" = lib.mkIf cfg.backup.enable {
      ${asPattern cfg.backup.path}.z = handedOver;
    };
  };
}
