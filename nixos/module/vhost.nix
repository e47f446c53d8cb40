# The virtual host as others see it: where it listens, and its address.
{ config, lib }:
let
  cfg = config.services.codex-image-service;
  inherit (config.services) nginx;
  vhost = nginx.virtualHosts.${cfg.nginx.virtualHost};
  hasTls = vhost.addSSL || vhost.forceSSL || vhost.onlySSL;

  # What NixOS makes of a host that names no sockets of its own.
  usual =
    let
      named = nginx.defaultListen or [ ];
      addresses =
        if vhost.listenAddresses != [ ] then vhost.listenAddresses else nginx.defaultListenAddresses;
    in
    if named != [ ] then named else map (addr: { inherit addr; }) addresses;
  of =
    ssl: port:
    map (it: {
      inherit (it) addr;
      inherit ssl;
      port = if it.port or null != null then it.port else port;
    }) (lib.filter (it: it.ssl or null == null || it.ssl == ssl) usual);
  listens =
    if vhost.listen != [ ] then
      vhost.listen
    else
      lib.optionals hasTls (of true nginx.defaultSSLListenPort)
      ++ lib.optionals (!vhost.onlySSL) (of false nginx.defaultHTTPListenPort);
  sockets = map (
    it: it // { port = if it.port != null then it.port else 80; } # nginx's own default
  ) (lib.filter (it: !lib.hasPrefix "unix:" it.addr) listens);

  isLocal = addr: addr == "localhost" || addr == "[::1]" || lib.hasPrefix "127." addr;
  # Neither a pattern nor `_`, which stand for every name.
  isName = name: builtins.match "[A-Za-z0-9][A-Za-z0-9._-]*|\\[[0-9a-fA-F:]+]" name != null;

  encrypted = lib.filter (it: it.ssl) sockets;
  scheme = if hasTls || encrypted != [ ] then "https" else "http";
  usualPort = if scheme == "https" then 443 else 80;
  ports = map (it: it.port) (if encrypted != [ ] then encrypted else sockets);
  port = if ports == [ ] || lib.elem usualPort ports then usualPort else lib.head ports;
in
rec {
  # The first name of the host that is one; null: it has none.
  name = lib.findFirst isName null (
    [ (if vhost.serverName != null then vhost.serverName else cfg.nginx.virtualHost) ]
    ++ vhost.serverAliases
  );

  url = "${scheme}://${if name == null then "localhost" else name}${
    lib.optionalString (port != usualPort) ":${toString port}"
  }${lib.removeSuffix "/" cfg.nginx.path}";

  # Those that other machines reach.
  openPorts = lib.sort lib.lessThan (
    lib.unique (map (it: it.port) (lib.filter (it: !isLocal it.addr) sockets))
  );
}
