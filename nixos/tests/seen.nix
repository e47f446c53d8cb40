# What others see of a configuration: how picture URLs begin, which ports the firewall opens, and what is
# warned of.
{
  "an address of this machine alone" = {
    listen = [ "127.0.0.1:9000" ];
    url = "http://localhost:9000";
  };
  "another of this machine" = {
    listen = [ "[::1]:9000" ];
    url = "http://[::1]:9000";
    openFirewall = true;
    warned = "openFirewall opens the ports";
  };
  "an address that others reach" = {
    listen = [
      "127.0.0.1:8000"
      "192.168.1.5:80"
      "[fd00::10]:8001"
    ];
    url = "http://192.168.1.5";
    openFirewall = true;
    ports = [
      80
      8001
    ];
  };
  "an IPv6 address that others reach" = {
    listen = [ "[fd00::10]:8001" ];
    url = "http://[fd00::10]:8001";
  };
  "every address" = {
    listen = [ "0.0.0.0:9000" ];
    url = "http://localhost:9000";
    openFirewall = true;
    ports = [ 9000 ];
    warned = "settings.public_base_url is not set: picture URLs begin with http://localhost:9000, but \"0.0.0.0:9000\"";
  };
  "a port alone" = {
    listen = [ "9000" ];
    url = "http://localhost:9000";
    warned = "settings.public_base_url is not set";
  };
  "every address, with a name" = {
    listen = [ "[::]:8000" ];
    settings.public_base_url = "http://localhost:8000";
    url = "http://localhost:8000";
  };
  "somebody else's proxy" = {
    listen = [ ];
    url = "http://localhost";
    warned = "settings.public_base_url is not set";
  };
  "a virtual host" = {
    virtualHost = "home.example";
    path = "/pictures";
    url = "http://home.example/pictures";
    openFirewall = true;
    ports = [ 80 ];
  };
  "one with a certificate" = {
    virtualHost = "home.example";
    host.forceSSL = true;
    url = "https://home.example";
    openFirewall = true;
    ports = [
      80
      443
    ];
  };
  "one with a certificate alone" = {
    virtualHost = "home.example";
    host.onlySSL = true;
    url = "https://home.example";
    openFirewall = true;
    ports = [ 443 ];
  };
  "one without a name" = {
    virtualHost = "_";
    url = "http://localhost";
    warned = "\"_\" in services.codex-image-service.nginx.virtualHost is no name";
  };
  "one with a name beside a pattern" = {
    virtualHost = "*.home.example";
    host.serverAliases = [ "home.example" ];
    url = "http://home.example";
  };
  "one with ports of its own" = {
    virtualHost = "home.example";
    host.listen = [
      {
        addr = "127.0.0.1";
        port = 81;
      }
      {
        addr = "0.0.0.0";
        port = 8443;
        ssl = true;
      }
      { addr = "unix:/run/other.sock"; }
    ];
    url = "https://home.example:8443";
    openFirewall = true;
    ports = [ 8443 ];
  };
}
