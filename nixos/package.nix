{
  lib,
  stdenv,
  buildPackages,
  rustPlatform,
  installShellFiles,
  tzdata,
  versionCheckHook,
}:
let
  manifest = lib.importTOML ../Cargo.toml;
  # In a cross build the program for the other machine is run by an emulator.
  canRun = stdenv.hostPlatform.emulatorAvailable buildPackages;
in
rustPlatform.buildRustPackage (finalAttrs: {
  pname = manifest.package.name;
  inherit (manifest.package) version;

  # What is compiled, and nothing else: an edit of the README rebuilds nothing.
  src = lib.fileset.toSource {
    root = ../.;
    fileset = lib.fileset.unions [
      ../Cargo.lock
      ../Cargo.toml
      ../benches
      ../clippy.toml
      ../migrations
      ../proptest-regressions
      ../src
      (lib.fileset.fileFilter (file: file.hasExt "rs") ../tests)
      ../tests/snapshots
      ../templates
    ];
  };

  cargoLock.lockFile = ../Cargo.lock;

  nativeBuildInputs = [ installShellFiles ];

  # Those that need neither network, nor programs of others, nor a second user. Without the release
  # build's whole-program optimisation of each of them.
  checkType = "debug";
  cargoTestFlags = [
    "--lib"
    "--bins"
    "--test=admin_login"
    "--test=healthcheck"
    "--test=hostile_bodies"
    "--test=key_before_body"
    "--test=keys"
    "--test=settings"
  ];
  # The sandbox has no zone database. tzdata's own hook sets this for packages with buildInputs only.
  preCheck = ''
    export TZDIR=${tzdata}/share/zoneinfo
  '';

  postInstall = lib.optionalString canRun (
    let
      program = "${stdenv.hostPlatform.emulator buildPackages} $out/bin/${finalAttrs.meta.mainProgram}";
    in
    ''
      installShellCompletion --cmd ${finalAttrs.meta.mainProgram} \
        --bash <(${program} completions bash) \
        --fish <(${program} completions fish) \
        --zsh <(${program} completions zsh)
      mkdir man && ${program} man man
      installManPage man/*.1
    ''
  );

  nativeInstallCheckInputs = [ versionCheckHook ];
  doInstallCheck = true;

  meta = {
    inherit (manifest.package) description;
    longDescription = ''
      Runs OpenAI's Codex CLI with your own ChatGPT login, hands out keys, keeps a durable queue and a history,
      serves the pictures and cleans up after itself.
    '';
    # It has no home page yet, nor a list of changes.
    license = lib.licenses.mit;
    maintainers = [ ];
    mainProgram = "codex-image-service";
    platforms = [
      "x86_64-linux"
      "aarch64-linux"
    ];
    sourceProvenance = [ lib.sourceTypes.fromSource ];
  };
})
