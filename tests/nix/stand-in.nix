# For NIXPKGS_STAND_IN, which compiles nothing: what is checked with a program that was built is
# checked by tests/run nix itself.
{ lib, options, ... }:
{
  config = lib.optionalAttrs (options.services ? codex-image-service) {
    services.codex-image-service.settingsCheck = false;
  };
}
