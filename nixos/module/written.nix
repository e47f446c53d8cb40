# What is written into the file of the settings: what the user sets, and what the units settle.
{ lib, cfg }:
let
  names = import ./names.nix;
in
rec {
  fixed = {
    state_dir = cfg.stateDir;
    run_dir = names.bellsDir;
    # Out of the front's reach.
    codex_state_dir = names.codexDir;
    codex_keep_alive = cfg.keepAlive;
  }
  // lib.optionalAttrs (cfg.accounts != { }) {
    codex_homes = lib.concatMapStringsSep ":" (label: "${label}=${names.loginsDir}/${label}") (
      lib.attrNames cfg.accounts
    );
  };
  settings = lib.filterAttrs (_: value: value != null) cfg.settings // fixed;
}
