# What the tests' machines have in common: the service with a scripted Codex, and the commands that
# the tests use.
{ lib, pkgs, ... }:
let
  script =
    name: file:
    pkgs.writeTextFile {
      inherit name;
      executable = true;
      destination = "/bin/${name}";
      text = "#!${pkgs.python3}/bin/python3\n${builtins.readFile file}";
      meta.mainProgram = name;
    };
in
{
  virtualisation.memorySize = 1024;

  services.codex-image-service = {
    enable = lib.mkDefault true;
    codexPackage = script "codex" ./fake-codex.py;
    accounts.main = { };
    # The machines have no time to lose.
    settings.shutdown_grace_seconds = lib.mkDefault 20;
  };

  environment.systemPackages = [
    (script "make-auth" ./make-auth.py)
    (script "callers" ./callers.py)
    pkgs.jq
    pkgs.sqlite
    pkgs.curl
    # log-in LABEL: as `logins add` would leave it.
    (pkgs.writeShellScriptBin "log-in" ''
      set -eu
      home=/var/lib/codex-image-worker/logins/$1
      make-auth "$1" > "$home/auth.json"
      chmod 0600 "$home/auth.json"
      chown --reference="$home" "$home/auth.json"
    '')
    # ask PATH BODY: a request with the key in /root/key.
    (pkgs.writeShellScriptBin "ask" ''
      exec curl -fsS "''${3-http://127.0.0.1:8000}$1" -H "Authorization: Bearer $(cat /root/key)" \
        -H 'Content-Type: application/json' -d "$2"
    '')
  ];
}
