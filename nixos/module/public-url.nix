# The address that picture URLs begin with where nobody says one, and why it may be a wrong one.
{ config, lib }:
let
  cfg = config.services.codex-image-service;
  vhost = import ./vhost.nix { inherit config lib; };
  sockets = (import ./addresses.nix { inherit lib; }).withPorts cfg.listen;

  reached = lib.findFirst (it: !it.isLocal && !it.isEvery) null sockets;
  every = lib.findFirst (it: it.isEvery) null sockets;
  local = lib.findFirst (it: it.address == "127.0.0.1") (lib.head sockets) sockets;

  at = host: port: "http://${host}${lib.optionalString (port != 80) ":${toString port}"}";
in
# `doubt` ends a sentence that begins with the address; null: there is none.
if cfg.nginx.enable then
  {
    inherit (vhost) url;
    doubt =
      if vhost.name == null then
        "${builtins.toJSON cfg.nginx.virtualHost} in services.codex-image-service.nginx.virtualHost is no name that others could use"
      else
        null;
  }
else if reached != null then
  {
    url = at reached.host reached.port;
    doubt = null;
  }
else if every != null then
  {
    url = at "localhost" every.port;
    doubt = "${builtins.toJSON every.text} in services.codex-image-service.listen is every address, and none that others could use";
  }
else if sockets == [ ] then
  {
    url = "http://localhost";
    doubt = "neither services.codex-image-service.listen nor its nginx says by which address others come";
  }
else
  {
    url = at (if local.address == "127.0.0.1" then "localhost" else local.host) local.port;
    doubt = null;
  }
