# The virtual host.
{ config, lib, ... }:
let
  cfg = config.services.codex-image-service;
  names = import ./names.nix;
  host = cfg.nginx.virtualHost;
  vhost = import ./vhost.nix { inherit config lib; };
  prefix = lib.removeSuffix "/" cfg.nginx.path;
  pictures = cfg.settings.generated_dir;
  literally = lib.escapeRegex prefix;
  # What the service itself says of a picture; src/http/generated.rs has the reasons.
  ofPictures = {
    Cache-Control = "public, max-age=3600";
    Content-Security-Policy = "default-src 'none'; sandbox";
    X-Content-Type-Options = "nosniff";
  };
  variable = header: "$codex_image_${lib.toLower (lib.replaceStrings [ "-" ] [ "_" ] header)}";

  # Host with its port, and Origin as it came: by them forms of other sites are told from ours.
  # No connection is kept: one that the front closes when it has nothing to do would break a request.
  # Answers are buffered, so that no slow caller keeps the front; those that come bit by bit say themselves
  # that they must not be.
  toFront = ''
    proxy_http_version 1.1;
    proxy_set_header Connection close;
    proxy_set_header Host $codex_image_host;
    proxy_set_header X-Forwarded-For $remote_addr;
    proxy_set_header X-Forwarded-Proto $scheme;
    proxy_request_buffering off;
    proxy_connect_timeout 60s;
    proxy_read_timeout ${toString (builtins.ceil (cfg.settings.request_wait_timeout_seconds + 60))}s;
    proxy_send_timeout 300s;
    client_max_body_size ${toString (cfg.settings.max_request_body_bytes + 65536)};
  '';
  front = extra: {
    proxyPass = "http://unix:${names.httpSocket}";
    recommendedProxySettings = false;
    extraConfig = toFront + extra;
  };
in
{
  config = lib.mkIf (cfg.enable && cfg.nginx.enable) {
    services.nginx = {
      enable = true;
      # Of what a client calls the host, only what can be one. Only tries to sign in count, not looks
      # at the form.
      commonHttpConfig = ''
        map $http_host $codex_image_host {
          default $host;
          "~^[A-Za-z0-9.:\[\]_-]+$" $http_host;
        }
        map $request_method $codex_image_login {
          default "";
          POST $binary_remote_addr;
        }
        limit_req_zone $codex_image_login zone=codex_image_login:1m rate=${cfg.nginx.loginRate};
      ''
      # Beside the pictures they are empty, and not sent. An add_header below would take the place of
      # all that stands up here, such as the host's HSTS.
      + lib.optionalString cfg.nginx.servePictures (
        lib.concatStrings (
          lib.mapAttrsToList (header: value: ''
            map $request_filename ${variable header} {
              default "";
              "~^${lib.escapeRegex pictures}/img_[^/]+$" "${value}";
            }
            add_header ${header} ${variable header} always;
          '') ofPictures
        )
      );
      virtualHosts.${host}.locations = lib.mkMerge [
        {
          "${prefix}/" = front "";
          "= ${prefix}/admin/login" = front ''
            limit_req zone=codex_image_login burst=8 nodelay;
            limit_req_status 429;
          '';
          # For this machine alone: http://127.0.0.1:8000/metrics.
          "= ${prefix}/metrics".return = 404;
        }
        (lib.mkIf cfg.nginx.servePictures {
          # Only names that the service gives. What is not there, or cannot be read, is the service's to answer.
          "~ ^${literally}/generated/(?<codex_image_file>img_[0-9a-f]+(?:_[0-9]+)?\\.(?:png|jpg|webp))$" = {
            priority = 900;
            # By a name: $1 is gone once another pattern was looked at.
            alias = "${pictures}/$codex_image_file";
            extraConfig = ''
              disable_symlinks on from=${pictures};
              error_page 403 404 405 = @codex-image-service;
              log_not_found off;
              # By these types a file is a picture, whatever is in it.
              types { image/png png; image/jpeg jpg; image/webp webp; }
              default_type application/octet-stream;
            '';
          };
          "@codex-image-service" = front "";
        })
      ];
    };

    networking.firewall.allowedTCPPorts = lib.mkIf cfg.openFirewall vhost.openPorts;
  };
}
