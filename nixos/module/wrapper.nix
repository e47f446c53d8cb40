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

  wrapper = pkgs.writeShellScriptBin "codex-image-service" ''
    set -eu
    program=${lib.getExe cfg.package}
    command=
    for word in "$@"; do
      case $word in
        # Whoever asks how, has settings of their own or means a service elsewhere runs it as they are.
        -h | --help | -V | --version | --config | --config=* | --server | --server=*)
          exec "$program" "$@"
          ;;
        -*) ;;
        *) [ -n "$command" ] || command=$word ;;
      esac
    done
    if [ -n "''${CODEX_IMAGE_SERVICE_URL-}" ] && [ "$command" = generate ]; then
      exec "$program" "$@"
    fi
    case $command in
      keys | admin) user=${names.front} home=/var/empty ;;
      logins | generate | cleanup | backup | restore) user=${worker} home=${names.homeDir} ;;
      *) exec "$program" "$@" ;;
    esac
    # A .env of the folder that one happens to be in is not the service's. These read or write files
    # there, if their user can.
    case $command in
      generate | backup | restore)
        ${setpriv} --reuid="$user" --regid=${names.group} --clear-groups \
          ${lib.getExe' pkgs.coreutils "test"} -r . -a -x . 2> /dev/null || cd /
        ;;
      *) cd / ;;
    esac
    # Both users give what they make to the group.
    umask 0007
    set -- "$program" --config ${cfg.configFile} "$@"
    if [ "$(${id} -un)" = "$user" ]; then
      HOME=$home exec "$@"
    fi
    if [ "$(${id} -u)" != 0 ]; then
      echo "codex-image-service: '$command' works on the service's own data, as $user: run it as root" >&2
      exit 1
    fi
    # Nothing of root's environment is the service's business.
    exec env -i HOME="$home" PATH="$PATH" TERM="''${TERM-dumb}" LANG="''${LANG-C.UTF-8}" \
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
