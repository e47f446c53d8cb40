# What can be set, each with an example. Only what the module itself reads is declared below
# `settings`; every other setting of the service can be written there as well.
{
  config,
  lib,
  pkgs,
  ...
}:
let
  inherit (lib) mkOption types;
  cfg = config.services.codex-image-service;
  format = pkgs.formats.toml { };

  # The service reads the file through systemd, never by itself.
  secretFile =
    description: example:
    mkOption {
      type = types.nullOr types.path;
      default = null;
      inherit example description;
    };

  account.options.authFile = secretFile ''
    An `auth.json` of Codex that seeds this login: it is copied into the login's own home once, and
    again only when you give another one that is newer. Codex renews what it has by itself, so a
    seed must not be used anywhere else. Without a seed sign in with
    `codex-image-service logins add LABEL`.
  '' "/run/secrets/codex-auth-main";
in
{
  options.services.codex-image-service = {
    enable = lib.mkEnableOption "codex-image-service, a ChatGPT subscription's image generation over HTTP";

    package = mkOption {
      type = types.package;
      default = pkgs.codex-image-service or (pkgs.callPackage ../package.nix { });
      defaultText = lib.literalMD "the flake's own package, built with the nixpkgs that it locks; `pkgs.codex-image-service` where its overlay is applied";
      example = lib.literalExpression "pkgs.codex-image-service";
      description = "The service's own package.";
    };

    codexPackage = lib.mkPackageOption pkgs "codex" {
      example = "codex";
      extraDescription = ''
        The Codex CLI, 0.122.0 or newer; where that of your nixpkgs is older, the flake takes the one that it locks.
        The demo engine needs none.
      '';
    };

    settings = mkOption {
      type = types.submodule {
        freeformType = format.type;
        options = {
          codex_engine = mkOption {
            type = types.enum [
              "auto"
              "app-server"
              "exec"
              "demo"
            ];
            default = "auto";
            example = "demo";
            description = "How pictures are made; `demo` paints them itself, without Codex and without a login.";
          };
          codex_bin = mkOption {
            type = types.nullOr types.str;
            default = if cfg.settings.codex_engine == "demo" then null else lib.getExe cfg.codexPackage;
            defaultText = lib.literalExpression "lib.getExe config.services.codex-image-service.codexPackage";
            example = "/opt/codex/bin/codex";
            description = "The Codex CLI.";
          };
          generated_dir = mkOption {
            type = types.strMatching "/[^,%$;{}\"\\[:space:]]+";
            default = "${cfg.stateDir}/generated";
            defaultText = lib.literalExpression ''"''${config.services.codex-image-service.stateDir}/generated"'';
            example = "/srv/pictures/generated";
            description = "The folder of the finished pictures, one of its own, on a local disk that is mounted at boot.";
          };
          codex_workdir = mkOption {
            type = types.strMatching "/[^,%$;{}\"\\[:space:]]+";
            default = "${cfg.stateDir}/work";
            defaultText = lib.literalExpression ''"''${config.services.codex-image-service.stateDir}/work"'';
            example = "/srv/scratch/codex-image-work";
            description = "The folder in which Codex works, one of its own, on a local disk that is mounted at boot.";
          };
          public_base_url = mkOption {
            type = types.strMatching "https?://.+";
            default = (import ./public-url.nix { inherit config lib; }).url;
            defaultText = lib.literalMD "the virtual host's address and path; without nginx the first of `listen` that other machines reach, else `http://localhost:PORT`";
            example = "https://home.example/pictures";
            description = ''
              The address that picture URLs begin with; its path is `admin_url_prefix`. Where the module cannot know
              it (every address in `listen`, a virtual host without a name) it says so: set it.
            '';
          };
          admin_url_prefix = mkOption {
            type = types.strMatching "(/[A-Za-z0-9._~-]+)*";
            example = "/pictures";
            defaultText = lib.literalMD "`nginx.path`, without nginx empty";
            description = "The path under which a proxy shows the service.";
          };
          request_wait_timeout_seconds = mkOption {
            type = types.numbers.between 0.1 86400;
            default = 600;
            example = 900;
            description = "How long a synchronous caller waits; nginx waits a minute longer.";
          };
          shutdown_grace_seconds = mkOption {
            type = types.numbers.between 0 3600;
            default = 90;
            example = 300;
            description = "How long pictures in flight may take to finish when the worker is stopped.";
          };
          max_request_body_bytes = mkOption {
            type = types.ints.between 1024 1073741824;
            default = 70953644;
            example = 16777216;
            description = "The largest request body, here and at nginx: five references of 10 MiB as base64.";
          };
        };
      };
      default = { };
      example = {
        image_retention_days = 30;
        codex_worker_concurrency = 4;
        log_level = "debug";
      };
      description = ''
        The settings of the service, in lower case, as its README lists them. A change restarts front and worker.
        They lie in the store, which everybody can read: passwords belong into `adminPasswordFile` and its kin.
      '';
    };

    settingsCheck = mkOption {
      type = types.bool;
      default = pkgs.stdenv.buildPlatform.canExecute pkgs.stdenv.hostPlatform;
      defaultText = lib.literalExpression "pkgs.stdenv.buildPlatform.canExecute pkgs.stdenv.hostPlatform";
      example = false;
      description = ''
        Whether the settings are checked by `codex-image-service check-config` when the system is built, so that a
        wrong one stops the build and not the service. It needs no secret.
      '';
    };

    configFile = mkOption {
      type = types.path;
      internal = true;
      description = "The file made of `settings`.";
    };

    accounts = mkOption {
      type = types.attrsOf (types.submodule account);
      default = { };
      example = lib.literalExpression ''
        {
          main = { }; # sign in with: codex-image-service logins add main
          second.authFile = "/run/secrets/codex-auth-second";
        }
      '';
      description = ''
        The ChatGPT logins, by label: lower-case letters, digits and dashes. One that is removed here is used no more,
        but its folder below `/var/lib/codex-image-worker/logins` stays, with the login in it, until you remove it.
        A new label is a new login: to rename one, move its folder as well, or sign in again.
      '';
    };

    adminPasswordFile = secretFile ''
      The password of the admin pages, or its Argon2 hash. Without it one is made when the front first starts (with
      `onDemand` at the first request) and written to `admin-password` in `stateDir`, which only the front and root
      can read. It counts until another is made; once somebody has signed in, the file can go.
    '' "/run/secrets/codex-image-admin";

    sessionSecretFile = secretFile ''
      What signs the sessions of the admin pages. Without it a random one is kept in the state directory.
    '' "/run/secrets/codex-image-session";

    environmentFile = secretFile ''
      Variables for all units and for the command, such as a proxy with a password in it (`HTTPS_PROXY=…`). They are stronger
      than `settings`. A file that one of them names must be where the units see it: the front has a root of its own,
      with `/etc`, the store and `stateDir`.
    '' "/run/secrets/codex-image-environment";

    stateDir = mkOption {
      type = types.strMatching "/[^,%$;{}\"\\[:space:]]+";
      default = "/var/lib/codex-image-service";
      example = "/srv/pictures";
      description = ''
        Database, pictures and work in progress, shared by front and worker: a folder of its own, for it becomes
        theirs. The logins are elsewhere, in `/var/lib/codex-image-worker`, for the worker alone. SQLite and the
        folders' owners need a local disk that is mounted at boot, before folders are made: nothing on the network,
        nothing below a home.
      '';
    };

    listen = mkOption {
      type = types.listOf types.str;
      default = [ "127.0.0.1:8000" ];
      example = [
        "127.0.0.1:8000"
        "[fd00::10]:8000"
      ];
      description = ''
        Addresses in numbers with ports, ports alone, or paths of Unix sockets, on which systemd listens for the
        front. `0.0.0.0` is every IPv4 address; `[::]`, or a port alone, is every address of both kinds, and no other
        beside it may have that port. Picture URLs begin with the first address that other machines reach; where
        there is none such set `settings.public_base_url`. It always listens on
        `/run/codex-image-service/http.sock`, too, which is what nginx uses. Who reaches the folder of such a socket
        may connect. An address may be one that the machine gets later. NixOS leaves sockets alone when it switches:
        a change counts after a boot or `systemctl restart codex-image-service.socket`.
      '';
    };

    openFirewall = mkOption {
      type = types.bool;
      default = false;
      example = true;
      description = ''
        Whether to open the ports of `listen`, or, with nginx, those of the virtual host, but for addresses that only
        this machine has. Without it only this machine reaches them.
      '';
    };

    split = mkOption {
      type = types.bool;
      default = true;
      example = false;
      description = ''
        Whether front (HTTP, no network of its own) and worker (Codex, the logins) are two processes of two users.
        As one process, what takes over HTTP has the logins, too. Change it while no job runs: of folders in which
        Codex works, one user's are not the other's.
      '';
    };

    onDemand = mkOption {
      type = types.bool;
      default = true;
      example = false;
      description = ''
        Whether the processes run only while there is something to do. systemd holds their sockets, the first request
        starts them; after a boot a timer starts the worker once, which takes up what was left. Otherwise they start
        at boot and stay.
      '';
    };

    idleExit = {
      front = mkOption {
        type = types.ints.between 1 86400;
        default = 60;
        example = 600;
        description = "After so many seconds without a request the front ends, with `onDemand`.";
      };
      worker = mkOption {
        type = types.ints.between 1 86400;
        default = 300;
        example = 900;
        description = "After so many seconds without work the worker and its Codex end, with `onDemand`.";
      };
    };

    keepAlive = mkOption {
      type = types.bool;
      default = true;
      example = false;
      description = ''
        Whether a login that nobody uses is renewed before it expires. With `onDemand` a timer starts the worker
        once a day for that, at some time between 4:30 and 5:30.
      '';
    };

    cleanup = {
      enable = mkOption {
        type = types.bool;
        default = true;
        example = false;
        description = ''
          Whether a timer removes pictures and requests older than `settings.image_retention_days`. Without it
          everything is kept, but for what you remove: with `codex-image-service cleanup`, on the admin pages, or
          by `settings.cleanup_interval_hours`, with which the worker does it while it runs.
        '';
      };
      onCalendar = mkOption {
        type = types.str;
        default = "00/6:00";
        example = "daily";
        description = "When to clean up, as in systemd.time(7).";
      };
    };

    backup = {
      enable = mkOption {
        type = types.bool;
        default = false;
        example = true;
        description = ''
          Whether a timer writes consistent copies of the database, also while the service runs. By hand
          `codex-image-service backup --keep N DIR` makes one as the worker, in a folder that is there and the worker's.
        '';
      };
      onCalendar = mkOption {
        type = types.str;
        default = "daily";
        example = "*-*-* 03:30";
        description = "When to do it, as in systemd.time(7).";
      };
      keep = mkOption {
        type = types.ints.positive;
        default = 7;
        example = 30;
        description = "How many copies are kept.";
      };
      path = mkOption {
        type = types.strMatching "/[^][*?^!%\\[:space:]]+";
        default = "/var/backup/codex-image-service";
        example = "/srv/backup/pictures";
        description = ''
          The folder of the copies, one of its own: whatever it was, it becomes the worker's, who alone can read it.
          On a local disk that is mounted at boot; to another machine bring the copies from there.
        '';
      };
    };

    nginx = {
      enable = mkOption {
        type = types.bool;
        default = false;
        example = true;
        description = "Whether nginx shows the service, on a virtual host of its own or below a path of another.";
      };
      virtualHost = mkOption {
        type = types.str;
        # So that an assertion can name the option before anything else wants it.
        default = "";
        defaultText = lib.literalMD "none: with `nginx.enable` there must be one";
        example = "pictures.home.example";
        description = ''
          The virtual host. Certificates and the like are set as for every other:
          `services.nginx.virtualHosts."pictures.home.example".enableACME = true;`.
        '';
      };
      path = mkOption {
        type = types.strMatching "/|(/[A-Za-z0-9._~-]+)+";
        default = "/";
        example = "/pictures";
        description = "The path below which the service is shown.";
      };
      servePictures = mkOption {
        type = types.bool;
        default = (cfg.settings.cors_allow_origins or "") == "";
        defaultText = lib.literalExpression ''(config.services.codex-image-service.settings.cors_allow_origins or "") == ""'';
        example = false;
        description = ''
          Whether nginx reads finished pictures itself, without waking the service. It may read them and nothing else
          of the state; what lets it through (`setfacl -b` takes it back) stays in the file system when this is
          switched off. Where the file system has no POSIX ACLs (ZFS with `acltype=off`), the service serves them.
          Web pages of others (`cors_allow_origins`) need the service's own answers. Headers that the whole of nginx
          sends (`commonHttpConfig`) come with the pictures as well. A virtual host with an `add_header` of its own
          sends that instead of the service's: add there
          `add_header Content-Security-Policy $codex_image_content_security_policy always;`, and the same with
          `X-Content-Type-Options` and `Cache-Control`.
        '';
      };
      loginRate = mkOption {
        type = types.strMatching "[0-9]+r/[sm]";
        default = "10r/m";
        example = "30r/m";
        description = "How often one address may try to sign in to the admin pages.";
      };
    };
  };
}
