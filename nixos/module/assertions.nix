# What cannot be right, said before anything is built.
{
  config,
  lib,
  ...
}:
let
  cfg = config.services.codex-image-service;
  prefix = "services.codex-image-service";

  secretFiles = {
    inherit (cfg) adminPasswordFile sessionSecretFile environmentFile;
  }
  // lib.mapAttrs' (
    label: account: lib.nameValuePair "accounts.${label}.authFile" account.authFile
  ) cfg.accounts;

  # `./secret` would be copied into the store by the first who uses it.
  inStore = file: lib.isPath file || lib.hasPrefix builtins.storeDir (toString file);

  urlPath =
    url:
    let
      path = builtins.match "https?://[^/]+(/.*)?" url;
    in
    if path == null || lib.head path == null then "" else lib.removeSuffix "/" (lib.head path);

  secretSettings = lib.filter (name: cfg.settings ? ${name}) [
    "admin_password"
    "admin_session_secret"
  ];
  badLabels = lib.filter (label: builtins.match "[a-z0-9][a-z0-9-]*" label == null) (
    lib.attrNames cfg.accounts
  );

  # Homes and temporary folders are hidden from the units, or emptied.
  hidden = [
    "/home"
    "/root"
    "/run/user"
    "/tmp"
    "/var/tmp"
  ];
  isHidden = folder: lib.any (above: folder == above || lib.hasPrefix "${above}/" folder) hidden;
  folders = {
    inherit (cfg) stateDir;
    "settings.generated_dir" = cfg.settings.generated_dir;
    "settings.codex_workdir" = cfg.settings.codex_workdir;
  }
  // lib.optionalAttrs cfg.backup.enable { "backup.path" = cfg.backup.path; };

  # What systemd would read otherwise than it was meant: a name of a host, or as one.
  badAddresses = lib.filter (
    address:
    builtins.match ''((([0-9]+\.){3}[0-9]+|\[[0-9a-fA-F:.]+]):)?[1-9][0-9]{0,4}|/[^[:space:]]+'' address
    == null
  ) cfg.listen;
  isLocal =
    address:
    lib.any (start: lib.hasPrefix start address) [
      "127."
      "[::1]:"
      "/"
    ];

  database = cfg.settings.database_url or null;
in
{
  config = lib.mkIf cfg.enable {
    assertions = [
      {
        assertion = cfg.accounts != { } || cfg.settings.codex_engine == "demo";
        message = ''${prefix}.accounts: at least one login is needed, such as `${prefix}.accounts.main = { };`; without one only `${prefix}.settings.codex_engine = "demo"` makes pictures.'';
      }
      {
        assertion = badLabels == [ ];
        message = "${prefix}.accounts: ${
          lib.concatMapStringsSep ", " builtins.toJSON badLabels
        }: a label is made of lower-case letters, digits and dashes.";
      }
      {
        assertion = secretSettings == [ ];
        message = "${prefix}.settings: ${lib.concatStringsSep " and " secretSettings} would lie in the store, where everybody can read it; use ${prefix}.adminPasswordFile and ${prefix}.sessionSecretFile.";
      }
      {
        assertion = !(cfg.settings ? codex_homes) || cfg.accounts != { } || cfg.settings.codex_homes == "";
        message = "${prefix}.settings.codex_homes: logins are declared by ${prefix}.accounts, so that the worker alone can read them.";
      }
      {
        assertion = urlPath cfg.settings.public_base_url == cfg.settings.admin_url_prefix;
        message = "${prefix}.settings: the path of public_base_url (${builtins.toJSON cfg.settings.public_base_url}) and admin_url_prefix (${builtins.toJSON cfg.settings.admin_url_prefix}) must be the same.";
      }
      {
        assertion =
          cfg.nginx.enable -> cfg.settings.admin_url_prefix == lib.removeSuffix "/" cfg.nginx.path;
        message = "${prefix}.settings.admin_url_prefix (${builtins.toJSON cfg.settings.admin_url_prefix}) is not the path of ${prefix}.nginx.path (${builtins.toJSON cfg.nginx.path}).";
      }
      {
        assertion = cfg.openFirewall -> cfg.nginx.enable || cfg.listen != [ ];
        message = "${prefix}.openFirewall: there is neither ${prefix}.nginx nor an address in ${prefix}.listen to open a port for.";
      }
      {
        assertion = badAddresses == [ ];
        message = "${prefix}.listen: ${
          lib.concatMapStringsSep ", " builtins.toJSON badAddresses
        }: what is listened on is ADDRESS:PORT with an address in numbers (127.0.0.1:8000, [::1]:8000), PORT alone, or the /path of a socket.";
      }
      {
        assertion = database == null || lib.hasPrefix "sqlite:///${cfg.stateDir}/" database;
        message = "${prefix}.settings.database_url (${builtins.toJSON database}) is not in ${prefix}.stateDir, the only folder in which the units write a database: sqlite:///${cfg.stateDir}/NAME.db.";
      }
      {
        assertion = !(lib.hasPrefix builtins.storeDir cfg.stateDir);
        message = "${prefix}.stateDir cannot be in the store.";
      }
    ]
    ++ lib.mapAttrsToList (name: folder: {
      assertion = !isHidden folder;
      message = "${prefix}.${name} (${builtins.toJSON folder}) is in a home or a temporary folder, which the units cannot see: name one elsewhere, on a disk of this machine.";
    }) folders
    ++ lib.mapAttrsToList (name: file: {
      assertion = file == null || !inStore file;
      message = "${prefix}.${name} is in the store, or would be copied there, where everybody can read it: name a file outside of it, as a string.";
    }) secretFiles;

    warnings =
      lib.optional (cfg.openFirewall && !cfg.nginx.enable && lib.all isLocal cfg.listen)
        "${prefix}.openFirewall opens the ports of ${prefix}.listen, but those are addresses that only this machine can reach.";
  };
}
