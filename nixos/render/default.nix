# The configuration behind tests/units/default: what a new user has, as two processes on demand.
{
  imports = [ ./collect.nix ];
  services.codex-image-service = {
    enable = true;
    accounts.main = { };
    backup.enable = true;
  };
}
