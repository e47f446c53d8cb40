# The image: not root, the login and everything else in one volume. `nix build .#container` gives a
# script that writes the image to standard output.
{
  lib,
  dockerTools,
  cacert,
  codex,
  codex-image-service,
  tzdata,
}:
let
  user = "codex-image";
  id = 1000;
  state = "/var/lib/codex-image-service";
  seconds = n: n * 1000000000;
in
dockerTools.streamLayeredImage {
  name = "codex-image-service";
  tag = codex-image-service.version;
  created = "1970-01-01T00:00:01Z";

  contents = [
    cacert
    codex-image-service
    tzdata
  ];

  # Files, not links: newer runtimes refuse what leads out of /etc.
  fakeRootCommands = ''
    mkdir -p etc tmp .${state}/{codex,data}
    rm -f etc/passwd etc/group
    echo "${user}:x:${toString id}:${toString id}::${state}:/sbin/nologin" > etc/passwd
    echo "${user}:x:${toString id}:" > etc/group
    chmod 1777 tmp
    chown -R ${toString id}:${toString id} .${state}
    chmod -R go= .${state}
  '';

  config = {
    User = "${toString id}:${toString id}";
    WorkingDir = state;
    Entrypoint = [ (lib.getExe codex-image-service) ];
    Cmd = [ "serve" ];
    Env = [
      "HOME=${state}"
      "LISTEN=0.0.0.0:8000"
      "STATE_DIR=${state}/data"
      "CODEX_HOMES=main=${state}/codex"
      "CODEX_BIN=${lib.getExe codex}"
      "SSL_CERT_FILE=${cacert}/etc/ssl/certs/ca-bundle.crt"
      "TZDIR=${tzdata}/share/zoneinfo"
    ];
    ExposedPorts."8000/tcp" = { };
    Volumes.${state} = { };
    StopSignal = "SIGTERM";
    Healthcheck = {
      Test = [
        "CMD"
        (lib.getExe codex-image-service)
        "healthcheck"
      ];
      Interval = seconds 30;
      Timeout = seconds 5;
      StartPeriod = seconds 10;
    };
    Labels = {
      "org.opencontainers.image.title" = "codex-image-service";
      "org.opencontainers.image.description" = codex-image-service.meta.description;
      "org.opencontainers.image.version" = codex-image-service.version;
      "org.opencontainers.image.licenses" = "MIT";
    };
  };
}
