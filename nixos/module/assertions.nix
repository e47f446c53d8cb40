# What cannot be right, said before anything is built.
{
  config,
  lib,
  options,
  ...
}:
let
  cfg = config.services.codex-image-service;
  prefix = "services.codex-image-service";
  names = import ./names.nix;
  addresses = import ./addresses.nix { inherit lib; };
  publicUrl = import ./public-url.nix { inherit config lib; };
  inherit (import ./written.nix { inherit lib cfg; }) fixed;
  quoted = lib.concatMapStringsSep ", " builtins.toJSON;

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
  # Each would be passed over, for the units say it already.
  elsewhere = {
    listen = "${prefix}.listen says where systemd listens for the service";
    listen_mode = "who reaches the folder of a socket in ${prefix}.listen may connect";
    listen_owner = "who reaches the folder of a socket in ${prefix}.listen may connect";
    idle_exit_seconds = "use ${prefix}.onDemand and ${prefix}.idleExit";
    state_dir = "use ${prefix}.stateDir";
    run_dir = "it is where the units meet";
    codex_state_dir = "it is the worker's alone, in ${names.privateDir}";
    codex_keep_alive = "use ${prefix}.keepAlive";
    codex_homes = "logins are declared by ${prefix}.accounts, so that the worker alone can read them";
    admin_password_file = "use ${prefix}.adminPasswordFile";
    admin_session_secret_file = "use ${prefix}.sessionSecretFile";
  };
  # What a former version of the module would have set, or no login at all, is no harm.
  isIdle = name: value: value == fixed.${name} or null || (name == "codex_homes" && value == "");
  passedOver = lib.filterAttrs (
    name: _: cfg.settings ? ${name} && !isIdle name cfg.settings.${name}
  ) elsewhere;

  badLabels = lib.filter (label: builtins.match "[a-z0-9][a-z0-9-]*" label == null) (
    lib.attrNames cfg.accounts
  );

  folders = {
    inherit (cfg) stateDir;
    "settings.generated_dir" = cfg.settings.generated_dir;
    "settings.codex_workdir" = cfg.settings.codex_workdir;
  }
  // lib.optionalAttrs cfg.backup.enable { "backup.path" = cfg.backup.path; };
  # Homes and temporary folders are hidden from the units, or emptied.
  hidden = [
    "/home"
    "/root"
    "/run/user"
    "/tmp"
    "/var/tmp"
  ];
  # Folders of many: what the module sets on one of its own would lock the others out.
  everybodys =
    map (name: "/${name}") [
      ""
      "bin"
      "boot"
      "dev"
      "etc"
      "lib"
      "lib64"
      "media"
      "mnt"
      "nix"
      "nix/store"
      "nix/var"
      "opt"
      "proc"
      "run"
      "sbin"
      "srv"
      "sys"
      "usr"
      "var"
    ]
    ++ map (name: "/var/${name}") [
      "backup"
      "backups"
      "cache"
      "db"
      "empty"
      "lib"
      "log"
      "run"
      "spool"
    ]
    ++ [
      names.runDir
      names.bellsDir
      names.privateDir
    ];
  isIn = above: folder: folder == above || lib.hasPrefix "${above}/" folder;
  # A folder that is another, too, or, since nobody else passes through those, above another.
  others =
    name: folder:
    lib.filter (
      other:
      other != name
      && (
        if name == "backup.path" then
          isIn folder folders.${other}
        else
          folder == folders.${other} && other != "backup.path"
      )
    ) (lib.attrNames folders);
  aboutFolder = name: folder: [
    {
      assertion =
        builtins.match "(/[^/]+)+" folder != null && builtins.match ".*/\\.\\.?(/.*)?" folder == null;
      message = "${prefix}.${name} (${builtins.toJSON folder}): write a folder in its shortest form, without a slash at its end, double ones or dots.";
    }
    {
      assertion = !lib.any (above: isIn above folder) hidden;
      message = "${prefix}.${name} (${builtins.toJSON folder}) is in a home or a temporary folder, which the units cannot see: name one elsewhere, on a disk of this machine.";
    }
    {
      assertion = !lib.elem folder everybodys;
      message = "${prefix}.${name} (${builtins.toJSON folder}) is a folder of many, and would be the service's alone: name one of its own, such as ${builtins.toJSON "${lib.removeSuffix "/" folder}/codex-image-service"}.";
    }
    {
      assertion = others name folder == [ ];
      message = "${prefix}.${name} (${builtins.toJSON folder}) is, or holds, that of ${
        lib.concatMapStringsSep " and " (other: "${prefix}.${other}") (others name folder)
      }: name a folder of its own.";
    }
    {
      assertion = name == "backup.path" || !isIn names.privateDir folder;
      message = "${prefix}.${name} (${builtins.toJSON folder}) is in the worker's own folder, which the front cannot see.";
    }
  ];

  parsed = lib.genAttrs cfg.listen addresses.parse;
  badAddresses = lib.filter (text: parsed.${text} == null) cfg.listen;
  sockets = lib.filter (it: it != null) (map (text: parsed.${text}) cfg.listen) ++ [
    { text = names.httpSocket; }
  ];
  # Pairs of which one socket would keep the other, and with it all of them, from listening.
  clashes = lib.concatLists (
    lib.imap1 (
      n: a:
      map (b: "${builtins.toJSON a.text} and ${builtins.toJSON b.text}") (
        lib.filter (addresses.overlap a) (lib.drop n sockets)
      )
    ) sockets
  );

  database = cfg.settings.database_url or null;
  urlIsSet = lib.any (
    settings: settings ? public_base_url
  ) options.services.codex-image-service.settings.definitions;
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
        message = "${prefix}.accounts: ${quoted badLabels}: a label is made of lower-case letters, digits and dashes.";
      }
      {
        assertion = secretSettings == [ ];
        message = "${prefix}.settings: ${lib.concatStringsSep " and " secretSettings} would lie in the store, where everybody can read it; use ${prefix}.adminPasswordFile and ${prefix}.sessionSecretFile.";
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
        assertion = cfg.nginx.enable -> cfg.nginx.virtualHost != "";
        message = ''${prefix}.nginx.virtualHost: ${prefix}.nginx.enable needs one, such as `${prefix}.nginx.virtualHost = "pictures.home.example";`.'';
      }
      {
        assertion = cfg.openFirewall -> cfg.nginx.enable || cfg.listen != [ ];
        message = "${prefix}.openFirewall: there is neither ${prefix}.nginx nor an address in ${prefix}.listen to open a port for.";
      }
      {
        assertion = badAddresses == [ ];
        message = "${prefix}.listen: ${quoted badAddresses}: what is listened on is ADDRESS:PORT with an address in numbers (127.0.0.1:8000, [::1]:8000), PORT alone (1 to 65535), or the /path of a socket.";
      }
      {
        assertion = clashes == [ ];
        message = "${prefix}.listen: ${lib.concatStringsSep "; " clashes} cannot both be listened on: 0.0.0.0 holds a port of every IPv4 address, [::] or a port alone that of every address, IPv4 and IPv6.";
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
    ++ lib.mapAttrsToList (name: why: {
      assertion = false;
      message = "${prefix}.settings.${name} does nothing here: ${why}.";
    }) passedOver
    ++ lib.concatLists (lib.mapAttrsToList aboutFolder folders)
    ++ lib.mapAttrsToList (name: file: {
      assertion = file == null || !inStore file;
      message = "${prefix}.${name} is in the store, or would be copied there, where everybody can read it: name a file outside of it, as a string.";
    }) secretFiles;

    warnings =
      lib.optional
        (cfg.openFirewall && !cfg.nginx.enable && lib.all (it: it.isLocal) (addresses.withPorts cfg.listen))
        "${prefix}.openFirewall opens the ports of ${prefix}.listen, but those are addresses that only this machine can reach."
      ++
        lib.optional (publicUrl.doubt != null && !urlIsSet)
          "${prefix}.settings.public_base_url is not set: picture URLs begin with ${cfg.settings.public_base_url}, but ${publicUrl.doubt}.";
  };
}
