# NixOS: `services.codex-image-service`. The units that it makes are also what other distributions
# get (tests/units), so nothing in them may be NixOS's alone.
{
  imports = [
    ./module/options.nix
    ./module/settings.nix
    ./module/assertions.nix
    ./module/users.nix
    ./module/units.nix
    ./module/timers.nix
    ./module/nginx.nix
    ./module/wrapper.nix
  ];
}
