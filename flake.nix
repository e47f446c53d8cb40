{
  description = "One ChatGPT subscription's image generation for a whole homelab, over a clean HTTP API";

  # flake.lock was written by hand: its revision, date and hash are those that the lock files of
  # kalbasit/ncps and wimpysworld/nix-config have for it, and two fetchTarball calls elsewhere have
  # the same hash. Nix compares the hash with what it fetches. `nix flake update` is yours.
  inputs.nixpkgs.url = "github:NixOS/nixpkgs/nixos-26.05";

  outputs =
    { self, nixpkgs }:
    let
      inherit (nixpkgs) lib;
      systems = [
        "x86_64-linux"
        "aarch64-linux"
      ];
      eachSystem =
        f: lib.genAttrs systems (system: f (nixpkgs.legacyPackages.${system}.extend self.overlays.default));

      nixFilesIn = folder: lib.filter (lib.hasSuffix ".nix") (lib.attrNames (builtins.readDir folder));

      # Configurations that are rendered for other distributions: files of their /etc.
      renderings =
        system:
        lib.mapAttrs
          (
            _: configuration:
            let
              inherit
                (lib.nixosSystem {
                  inherit system;
                  modules = [
                    self.nixosModules.default
                    configuration
                  ];
                })
                config
                ;
            in
            file: config.environment.etc.${file}.source
          )
          {
            default = ./nixos/render/default.nix;
            all-in-one = ./nixos/render/all-in-one.nix;
            nginx = ./nixos/render/nginx.nix;
          };
    in
    {
      overlays.default = final: _: {
        codex-image-service = final.callPackage ./nixos/package.nix { };
      };

      packages = eachSystem (pkgs: {
        default = pkgs.codex-image-service;
        inherit (pkgs) codex-image-service;
        container = pkgs.callPackage ./nixos/container.nix { };
      });

      apps = eachSystem (
        pkgs:
        let
          app = name: description: command: {
            type = "app";
            program = lib.getExe (pkgs.writeShellScriptBin name command);
            meta = { inherit description; };
          };
          program = lib.getExe pkgs.codex-image-service;
        in
        {
          default = app "codex-image-service" "The service with your own ~/.codex" ''
            export PATH=${lib.makeBinPath [ pkgs.codex ]}:$PATH
            exec ${program} "$@"
          '';
          demo = app "codex-image-service-demo" "The whole service with painted pictures, no login needed" ''
            exec ${program} demo "$@"
          '';
        }
      );

      nixosModules.default = {
        # Imported twice it counts once.
        key = "codex-image-service#nixosModules.default";
        _file = ./flake.nix;
        imports = [
          ./nixos/module.nix
          # The host's nixpkgs may be older than its Rust or its Codex may be. Weaker than any default
          # that somebody sets.
          (
            { pkgs, ... }:
            let
              inherit (pkgs.stdenv.hostPlatform) system;
              weak = lib.mkOverride 1400;
            in
            {
              _file = ./flake.nix;
              services.codex-image-service = {
                package = weak (pkgs.codex-image-service or self.packages.${system}.default);
                codexPackage = weak (
                  if lib.versionAtLeast (pkgs.codex.version or "0") "0.122.0" then
                    pkgs.codex
                  else
                    nixpkgs.legacyPackages.${system}.codex
                );
              };
            }
          )
        ];
      };

      checks = eachSystem (
        pkgs:
        let
          inherit (pkgs.stdenv.hostPlatform) system;
          rendered = renderings system;
          same =
            name: ours: made:
            pkgs.runCommand name { } ''
              diff -r ${ours} ${made} || {
                echo "see 'tests/run nix' for how to accept this"
                exit 1
              }
              touch $out
            '';
        in
        {
          package = pkgs.codex-image-service;
          container = self.packages.${system}.container;
          units = pkgs.linkFarm "codex-image-units" (
            map
              (name: {
                inherit name;
                path = same "units-${name}" ./tests/units/${name} (rendered.${name} "codex-image-rendered");
              })
              [
                "default"
                "all-in-one"
              ]
          );
          options = same "options" ./nixos/OPTIONS.md (rendered.default "codex-image-options.md");
          nginx-snapshot = same "nginx" ./tests/nix/nginx.conf (rendered.nginx "codex-image-nginx.conf");
          assertions = import ./nixos/tests/assertions.nix {
            inherit lib pkgs;
            module = self.nixosModules.default;
          };
          values = import ./nixos/tests/values.nix {
            inherit lib pkgs system;
            inherit (lib) nixosSystem;
            module = self.nixosModules.default;
          };
          formatting = pkgs.runCommand "formatting" { } ''
            ${lib.getExe' pkgs.nixfmt "nixfmt"} --check ${./flake.nix} $(find ${./nixos} ${./vm-tests} -name '*.nix')
            touch $out
          '';
        }
        // lib.listToAttrs (
          map (file: {
            name = lib.removeSuffix ".nix" file;
            value = pkgs.testers.runNixOSTest {
              imports = [ ./vm-tests/${file} ];
              defaults = {
                imports = [ self.nixosModules.default ];
                services.codex-image-service.package = lib.mkDefault pkgs.codex-image-service;
              };
            };
          }) (nixFilesIn ./vm-tests)
        )
      );

      devShells = eachSystem (pkgs: {
        default = pkgs.mkShell {
          inputsFrom = [ pkgs.codex-image-service ];
          packages = [
            pkgs.cargo
            pkgs.clippy
            pkgs.codex
            pkgs.deadnix
            pkgs.nixfmt
            pkgs.nodejs
            pkgs.rust-analyzer
            pkgs.rustfmt
            pkgs.sqlite
          ];
        };
      });

      formatter = eachSystem (pkgs: pkgs.nixfmt-tree);
    };
}
