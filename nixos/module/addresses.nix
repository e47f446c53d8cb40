# What `listen` names: addresses in numbers with ports, ports alone, and paths of sockets.
{ lib }:
let
  octet = "(25[0-5]|2[0-4][0-9]|1[0-9][0-9]|[1-9]?[0-9])";
  ipv4 = "(${octet}\\.){3}${octet}";

  # One spelling for each address; null: there is no such address.
  spelt =
    host:
    let
      inside = builtins.match "\\[([0-9a-fA-F:]+)]" host;
      tried = builtins.tryEval (lib.network.ipv6.fromString (lib.head inside)).address;
    in
    if inside != null then
      if tried.success then tried.value else null
    else if builtins.match ipv4 host != null then
      host
    else
      null;
  tcp =
    text: host: digits:
    let
      # A port alone is every address, of both kinds where the machine has both, as [::] is.
      address = if host == null then "0:0:0:0:0:0:0:0" else spelt host;
      port = lib.toIntBase10 digits;
      isEvery = address == "0:0:0:0:0:0:0:0" || address == "0.0.0.0";
    in
    if address == null || port > 65535 then
      null
    else
      {
        inherit text port address;
        # As a URL has it.
        host = if host == null then "[::]" else host;
        isIPv4 = host != null && lib.hasInfix "." address;
        everyKind = address == "0:0:0:0:0:0:0:0";
        inherit isEvery;
        isLocal = lib.hasPrefix "127." address || address == "0:0:0:0:0:0:0:1";
      };
in
rec {
  # null: systemd would pass over it, or take it for the name of a host.
  parse =
    text:
    let
      # A % would be systemd's own, and no path of a socket is longer.
      path = builtins.match "/[^[:space:]%]+" text;
      words = builtins.match "((.*):)?([1-9][0-9]{0,4})" text;
    in
    if path != null then
      if lib.stringLength text <= 107 then { inherit text; } else null
    else if words != null then
      tcp text (lib.elemAt words 1) (lib.elemAt words 2)
    else
      null;

  # Those with a port, without those that are none.
  withPorts = listen: lib.filter (it: it ? port) (lib.filter (it: it != null) (map parse listen));

  # Whether the second cannot be bound while the first is.
  overlap =
    a: b:
    a.text == b.text
    || (
      a ? port
      && b ? port
      && a.port == b.port
      && (
        a.address == b.address
        || a.everyKind
        || b.everyKind
        || ((a.isEvery || b.isEvery) && a.isIPv4 && b.isIPv4)
      )
    );
}
