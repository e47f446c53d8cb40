# shellcheck shell=bash
# Sourced by tests/run: what concerns Nix. With a real `nix` that is `nix flake check`; else the
# flake is evaluated, rendered and its tests run by NIXPKGS_STAND_IN, a folder with the commands
# flake-check, render and nixos-test.

# Machines of one node on which the tests in vm-tests/ run without Nix. The others are evaluated:
# sdk-clients needs openai-python.
nix_tests() {
    local file name
    for file in vm-tests/*.nix; do
        name=$(basename "$file" .nix)
        [ "$name" = sdk-clients ] || echo "$name"
    done
}

nix_tools=tests/.cache/nix
nix_files() { git ls-files --cached --others --exclude-standard -- '*.nix'; }

# What NixOS's test driver checks scripts with.
install_script_tools() {
    local list=tests/nix/requirements.txt into=$nix_tools/python
    cmp -s "$list" "$into/.installed" && return
    say "installing mypy and pyflakes into $into (about 90 MB)"
    rm -rf "$into"
    if ! python3 -m venv "$into" >/dev/null 2>&1; then
        rm -rf "$into"
        install_packages python3-venv python3-pip
        python3 -m venv "$into" || die "python3 makes no virtual environment"
    fi
    "$into/bin/python" -m pip install --quiet --disable-pip-version-check --require-hashes \
        --only-binary :all: -r "$list" || die "pip could not install mypy and pyflakes"
    cp "$list" "$into/.installed"
}

# check_script FILE: as the driver does when a real Nix builds it, with the same options (nixpkgs,
# nixos/lib/testing/driver.nix).
check_script() {
    local typed=$nix_work/typed.py
    cat tests/nix/driver.py "$1" >"$typed"
    $nix_tools/python/bin/mypy --cache-dir="$nix_tools/mypy" --no-implicit-optional --pretty \
        --no-color-output "$typed" &&
        PYFLAKES_BUILTINS=machine,subtest,t $nix_tools/python/bin/pyflakes "$1"
}

install_nix_tools() {
    [ -x $nix_tools/bin/nixfmt ] && [ -x $nix_tools/bin/deadnix ] && return
    say "installing nixfmt and deadnix into $nix_tools"
    cargo install --quiet --locked --root $nix_tools --target-dir $nix_tools/target nixfmt_rs deadnix ||
        die "cargo could not install nixfmt and deadnix"
    rm -rf $nix_tools/target
}

# stand_in COMMAND ARG...: one of the commands of NIXPKGS_STAND_IN, silent unless it fails.
stand_in() {
    local try out=$nix_work/out.$BASHPID
    for ((try = 0; try < 60; try++)); do
        STAND_IN_MODULES=$PWD/tests/nix/stand-in.nix STAND_IN_EXTRA=$nix_work/extra \
            "$NIXPKGS_STAND_IN/$1" "${@:2}" >"$out" 2>&1 && return
        # Nix ends a builder that has closed its output and is about to end by itself, and calls
        # that a failure. What was built until then stays.
        grep -q 'builder failed due to signal 9' "$out" || break
    done
    tail -n 60 "$out"
    return 1
}

nix_render() {
    stand_in render nixos/module.nix "$1" "$nix_work/$(basename "$1" .nix)"
}

# Rendered files equal the reviewed ones. To accept what is new, copy it as is said.
nix_same() {
    diff -r "$1" "$2" && return
    rm -rf $nix_tools/new
    mkdir -p "$nix_tools/new"
    cp -rL "$2" "$nix_tools/new/${1##*/}"
    say "to accept it: rm -r $1 && cp -r $nix_tools/new/${1##*/} $1"
    return 1
}

# All of them, two at a time: they wait more than they work.
run_machines() {
    local name bin
    bin=$(realpath "$1")
    for name in $(nix_tests); do
        while [ "$(jobs -rp | wc -l)" -ge 2 ]; do wait -n || true; done
        (
            stand_in nixos-test "$nix_work/tree" "$name" -b nspawn \
                -x "$bin:/usr/bin/codex-image-service" >"$nix_work/$name.said" || exit
            touch "$nix_work/$name.passed"
        ) &
    done
    wait
}

# What came of one of them.
nix_test() {
    [ -e "$nix_work/$1.passed" ] && return
    cat "$nix_work/$1.said"
    return 1
}

run_nix() {
    install_nix_tools
    mapfile -t files < <(nix_files)
    check "nix formatting" $nix_tools/bin/nixfmt --check "${files[@]}"
    check "nix dead code" $nix_tools/bin/deadnix --fail "${files[@]}"
    if command -v nix >/dev/null; then
        check "nix flake" nix --extra-experimental-features 'nix-command flakes' flake check -L
        return
    fi

    local name bin=${CARGO_TARGET_DIR:-target}/debug/codex-image-service
    cargo build --quiet --locked --bin codex-image-service || die "the program cannot be built"
    nix_work=$(mktemp -d)
    # A copy: what git does not know yet counts, and without the lock file the stand-in's errors
    # are not taken for a part of a message about it.
    mkdir "$nix_work/tree" "$nix_work/extra"
    git ls-files -z --cached --others --exclude-standard | grep -zvx flake.lock |
        while IFS= read -r -d '' name; do [ ! -e "$name" ] || printf '%s\0' "$name"; done |
        tar --null -T - -cf - | tar -xf - -C "$nix_work/tree"
    cp $nix_tools/bin/nixfmt "$nix_work/extra/"
    cat >"$nix_work/extra/default.nix" <<'END'
final: prev: {
  nixfmt = prev.runCommand "nixfmt" { } "install -D ${./nixfmt} $out/bin/nixfmt";
  python3 = prev.python3 // {
    withPackages = _: prev.python3; # for what is evaluated only
  };
}
END
    check "nix flake" stand_in flake-check "$nix_work/tree"
    for name in default all-in-one; do
        check "nix rendering $name" nix_render "nixos/render/$name.nix"
        check "nix units $name" nix_same "tests/units/$name" "$nix_work/$name/etc/codex-image-rendered"
        check "nix settings $name" "$bin" --config "tests/units/$name/config.toml" check-config
    done
    check "nix options" nix_same nixos/OPTIONS.md "$nix_work/default/etc/codex-image-options.md"
    check "nix rendering nginx" nix_render nixos/render/nginx.nix
    check "nix nginx" nix_same tests/nix/nginx.conf "$nix_work/nginx/etc/codex-image-nginx.conf"
    install_script_tools
    check "nix rendering scripts" nix_render tests/nix/scripts.nix
    for name in vm-tests/*.nix; do
        name=$(basename "$name" .nix)
        check "nix script $name" check_script "$nix_work/scripts/etc/test-scripts/$name.py"
    done
    if [ "$(id -u)" != 0 ]; then
        summary+=("nix tests: left out: the machines of NIXPKGS_STAND_IN need root")
    else
        say "running the tests in vm-tests/"
        run_machines "$bin"
        for name in $(nix_tests); do check "nix test $name" nix_test "$name"; done
    fi
    rm -rf "$nix_work"
}
