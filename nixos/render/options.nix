# The reference of the module's options, as Markdown: nixos/OPTIONS.md.
{ lib, options }:
let
  inherit (lib) concatMapStrings optionalString;

  shown = lib.filter (option: option.visible && !option.internal) (
    lib.optionAttrSetToDocList {
      services.codex-image-service = options.services.codex-image-service;
    }
  );
  # Descriptions of several lines are indented where they are written.
  words = text: lib.concatStringsSep "\n" (lib.splitString "\n" (lib.trim text));
  value =
    value:
    let
      text = value.text or (lib.generators.toPretty { } value);
    in
    if value._type or "" == "literalMD" then
      " ${text}"
    else if lib.hasInfix "\n" (lib.trim text) then
      "\n\n```nix\n${lib.trim text}\n```"
    else
      " `${text}`";
  # How nixpkgs words such a type changes now and then.
  type =
    text:
    if lib.hasPrefix "attribute set of" text then
      "attribute set of such"
    else if lib.hasInfix "submodule" text then
      "settings (TOML)"
    else
      text;
  name = lib.removePrefix "services.codex-image-service.";

  entry =
    option:
    ''

      ## `${name option.name}`

      ${words (option.description.text or option.description)}

      Type: ${type option.type}
    ''
    + optionalString (option ? default) "\nDefault:${value option.default}\n"
    + optionalString (option ? example) "\nExample:${value option.example}\n";
in
''
  # Options of the NixOS module

  All are below `services.codex-image-service`. Every setting of the service that is not listed here can be
  written into `settings` as well, in lower case. This file is made from `nixos/module/options.nix`; see
  `tests/run --help` for how.
''
+ concatMapStrings entry shown
