# Units, users, folders and settings of a configuration as files for any distribution: programs are
# in /usr/bin, the settings in /etc. In NixOS's /etc/codex-image-rendered, from where tests/run nix
# takes them to compare them with tests/units; so with the reference of the options.
{
  config,
  lib,
  options,
  pkgs,
  ...
}:
let
  cfg = config.services.codex-image-service;
  # A package whose program is in /usr/bin.
  installed = name: {
    type = "derivation";
    inherit name;
    outPath = "/usr";
    meta.mainProgram = name;
  };

  isOurs = name: lib.hasPrefix "codex-image" name || lib.hasPrefix "system-codeximage" name;
  # What only NixOS reads, and what it gives to every unit.
  isGeneral =
    line:
    !(lib.hasPrefix "X-" line)
    && builtins.match ''Environment="(LOCALE_ARCHIVE|TZDIR|PATH)=.*'' line == null;
  # One blank line at most, none at the ends.
  tidy =
    text:
    let
      lines = lib.filter isGeneral (lib.splitString "\n" text);
      keep = lib.foldl' (
        done: line: if line == "" && (done == [ ] || lib.last done == "") then done else done ++ [ line ]
      ) [ ] lines;
    in
    lib.concatStringsSep "\n" (if lib.last keep == "" then lib.init keep else keep) + "\n";
  units = lib.mapAttrs' (name: unit: lib.nameValuePair name (tidy unit.text)) (
    lib.filterAttrs (name: unit: isOurs name && unit.enable) config.systemd.units
  );

  lines =
    settings:
    lib.concatLists (
      lib.mapAttrsToList (
        path: kinds:
        lib.mapAttrsToList (
          kind: e: "${kind} ${path} ${e.mode} ${e.user} ${e.group} ${e.age} ${e.argument}"
        ) kinds
      ) settings
    );
  # In the order in which systemd would read the files.
  entries = lib.concatMap lines (
    lib.attrValues (
      lib.filterAttrs (name: _: lib.hasInfix "-codex-image-" name) config.systemd.tmpfiles.settings
    )
  );
  tmpfiles = lib.concatMapStrings (line: lib.removeSuffix " " line + "\n") entries;

  ours = lib.filterAttrs (name: _: isOurs name);
  sysusers = lib.concatLines (
    map (name: "g ${name} -") (lib.attrNames (ours config.users.groups))
    ++ lib.mapAttrsToList (
      name: user:
      ''u ${name} -:${user.group} "${user.description}" ${
        if user.home == "/var/empty" then "/" else user.home
      }''
    ) (ours config.users.users)
  );

  settings =
    (pkgs.formats.toml { }).generate "config.toml"
      (import ../module/written.nix { inherit lib cfg; }).settings;
  text = lib.mapAttrsToList (
    name: content: {
      inherit name;
      path = pkgs.writeText (lib.strings.sanitizeDerivationName (baseNameOf name)) content;
    }
  );
in
{
  services.codex-image-service = {
    package = installed "codex-image-service";
    codexPackage = installed "codex";
    settingsCheck = false;
    configFile = "/etc/codex-image-service/config.toml";
  };
  environment.etc = {
    # The settings themselves: configFile only says where they would be.
    "codex-image-service/config.toml".enable = false;
    "codex-image-options.md".text = import ./options.nix { inherit lib options; };
    codex-image-rendered.source = pkgs.linkFarm "codex-image-rendered" (
      text units
      ++ text {
        "tmpfiles.d/codex-image-service.conf" = tmpfiles;
        "sysusers.d/codex-image-service.conf" = sysusers;
      }
      ++ [
        {
          name = "config.toml";
          path = settings;
        }
      ]
    );
  };
}
