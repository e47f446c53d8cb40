# The configuration behind tests/units/all-in-one: one process that always runs.
{
  imports = [ ./collect.nix ];
  services.codex-image-service = {
    enable = true;
    accounts.main = { };
    split = false;
    onDemand = false;
  };
}
