# The command for the operator: the program with the unit's settings, as the unit's user.
{
  config,
  lib,
  pkgs,
  ...
}:
let
  cfg = config.services.codex-image-service;
  names = import ./names.nix;
  worker = if cfg.split then names.worker else names.front;
  setpriv = lib.getExe' pkgs.util-linux "setpriv";
  id = lib.getExe' pkgs.coreutils "id";

  sockets = lib.concatStringsSep " " (
    [ "codex-image-service.socket" ] ++ lib.optional cfg.split "codex-image-worker.socket"
  );

  # Only systemd reads such a file as it does.
  inUnit = ''
    terminal=--pipe
    if [ -t 0 ] && [ -t 1 ]; then terminal=--pty; fi
    exec ${lib.getExe' config.systemd.package "systemd-run"} --quiet --collect --wait "$terminal" \
      --service-type=exec --expand-environment=no --uid="$user" --gid=${names.group} \
      --working-directory="$PWD" --property=UMask=0007 --property=NoNewPrivileges=yes \
      --property=EnvironmentFile=${lib.escapeShellArg cfg.environmentFile} --setenv=HOME="$home" --setenv=PATH="$PATH" \
      --setenv=CODEX_IMAGE_SERVICE_ENV_FILE= \
      -- "$@"
  '';

  wrapper = pkgs.writeShellScriptBin "codex-image-service" ''
    set -eu
    program=${lib.getExe cfg.package}
    as_it_is=("$program" "$@")
    command= argument= words=()
    while [ $# != 0 ]; do
      case $1 in
        # Whoever asks how, has settings of their own or means a service elsewhere runs it as they are.
        -h | --help | -V | --version | --server | --server=*) exec "''${as_it_is[@]}" ;;
        --config | --config=*)
          file=''${1#--config} file=''${file#=}
          if [ -z "$file" ] && [ $# -gt 1 ]; then
            shift
            file=$1
          fi
          [ "$file" -ef ${cfg.configFile} ] || [ "$file" -ef /etc/codex-image-service/config.toml ] ||
            exec "''${as_it_is[@]}"
          shift
          continue
          ;;
        --)
          words+=("$@")
          argument=''${2-$argument}
          break
          ;;
        -*) ;;
        *) if [ -n "$command" ]; then argument=$1; else command=$1; fi ;;
      esac
      words+=("$1")
      shift
    done
    if [ -n "''${CODEX_IMAGE_SERVICE_URL-}" ] && [ "$command" = generate ]; then
      exec "''${as_it_is[@]}"
    fi
    ${lib.optionalString (cfg.adminPasswordFile != null) ''
      if [ "$command" = admin ]; then
        echo ${lib.escapeShellArg "codex-image-service: the password of the admin pages is what ${cfg.adminPasswordFile} holds (adminPasswordFile): change it there"} >&2
        exit 1
      fi
    ''}
    # Without a command, options that are none start nothing: the program says what is wrong with them.
    case $command''${words[0]-} in
      --) ;;
      -*) exec "''${as_it_is[@]}" ;;
    esac
    case $command in
      keys | admin) user=${names.front} home=/var/empty ;;
      logins | generate | cleanup | backup | restore | check-config) user=${worker} home=${names.homeDir} ;;
      # The settings do not say where systemd listens.
      healthcheck)
        [ -n "$argument" ] || exec "$program" "''${words[@]}" unix:${names.httpSocket}
        exec "''${as_it_is[@]}"
        ;;
      serve | "")
        if [ "$(${id} -u)" = 0 ]; then
          echo "codex-image-service: the service is not root's to run: systemctl start ${sockets}" >&2
          exit 1
        fi
        exec "''${as_it_is[@]}"
        ;;
      *) exec "''${as_it_is[@]}" ;;
    esac
    # A .env of the folder that one happens to be in is not the service's.
    export CODEX_IMAGE_SERVICE_ENV_FILE=
    # These read or write files in that folder, if their user can.
    case $command in
      generate | backup | restore)
        ${setpriv} --reuid="$user" --regid=${names.group} --clear-groups \
          ${lib.getExe' pkgs.coreutils "test"} -r . -a -x . 2> /dev/null || cd /
        ;;
      *) cd / ;;
    esac
    # Both users give what they make to the group.
    umask 0007
    set -- "$program" --config ${cfg.configFile} "''${words[@]}"
    if [ "$(${id} -un)" = "$user" ]; then
      HOME=$home exec "$@"
    fi
    if [ "$(${id} -u)" != 0 ]; then
      echo "codex-image-service: '$command' works on the service's own data, as $user: run it as root" >&2
      exit 1
    fi
    ${lib.optionalString (cfg.environmentFile != null) inUnit}
    # Nothing of root's environment is the service's business.
    exec ${lib.getExe' pkgs.coreutils "env"} -i HOME="$home" PATH="$PATH" TERM="''${TERM-dumb}" LANG="''${LANG-C.UTF-8}" CODEX_IMAGE_SERVICE_ENV_FILE= \
      ${setpriv} --reuid="$user" --regid=${names.group} --clear-groups --inh-caps=-all --no-new-privs \
      -- "$@"
  '';
in
{
  config = lib.mkIf cfg.enable {
    environment.systemPackages = [
      (lib.hiPrio wrapper)
      cfg.package # man page and completions
    ];
  };
}
