# Configurations that are refused, by words of the message.
{
  "accounts: at least one login" = { };
  "accounts: \"Main\": a label" = {
    accounts.Main = { };
  };
  "settings: admin_password would lie in the store" = {
    accounts.main = { };
    settings.admin_password = "secret";
  };
  "adminPasswordFile is in the store" = {
    accounts.main = { };
    adminPasswordFile = ../package.nix;
  };
  "accounts.main.authFile is in the store" = {
    accounts.main.authFile = "${builtins.storeDir}/auth.json";
  };
  "settings.codex_homes does nothing here: logins are declared" = {
    settings = {
      codex_engine = "demo";
      codex_homes = "main=/home/me/.codex";
    };
  };
  "must be the same" = {
    accounts.main = { };
    settings.public_base_url = "https://home.example/pictures";
  };
  "settings.admin_url_prefix (\"/other\") is not the path" = {
    accounts.main = { };
    nginx = {
      enable = true;
      virtualHost = "home.example";
      path = "/pictures";
    };
    settings = {
      admin_url_prefix = "/other";
      public_base_url = "https://home.example/other";
    };
  };
  "nginx.virtualHost: services.codex-image-service.nginx.enable needs one" = {
    accounts.main = { };
    nginx.enable = true;
  };
  "openFirewall: there is neither" = {
    accounts.main = { };
    listen = [ ];
    openFirewall = true;
  };
  "listen: \"localhost:8000\", \"pictures.sock\": what is" = {
    accounts.main = { };
    listen = [
      "127.0.0.1:8000"
      "localhost:8000"
      "pictures.sock"
    ];
  };
  "listen: \"127.0.0.1:99999\", \"999.1.1.1:80\", \"[::g]:80\", \"0\": what is" = {
    accounts.main = { };
    listen = [
      "127.0.0.1:99999"
      "999.1.1.1:80"
      "[::g]:80"
      "0"
    ];
  };
  "listen: \"127.0.0.1:8000\" and \"[::]:8000\" cannot both" = {
    accounts.main = { };
    listen = [
      "127.0.0.1:8000"
      "[::]:8000"
    ];
  };
  "listen: \"0.0.0.0:8000\" and \"192.168.1.5:8000\"; \"8001\" and \"[::1]:8001\"; \"[fd00::1]:8002\" and \"[FD00:0::1]:8002\" cannot both" =
    {
      accounts.main = { };
      listen = [
        "0.0.0.0:8000"
        "192.168.1.5:8000"
        "8001"
        "[::1]:8001"
        "[fd00::1]:8002"
        "[FD00:0::1]:8002"
      ];
    };
  "listen: \"/run/codex-image-service/http.sock\" and \"/run/codex-image-service/http.sock\" cannot both" =
    {
      accounts.main = { };
      listen = [ "/run/codex-image-service/http.sock" ];
    };
  "settings.listen does nothing here: services.codex-image-service.listen says" = {
    accounts.main = { };
    settings.listen = "0.0.0.0:9000";
  };
  "settings.listen_mode does nothing here" = {
    accounts.main = { };
    settings.listen_mode = "0666";
  };
  "settings.listen_owner does nothing here" = {
    accounts.main = { };
    settings.listen_owner = "me";
  };
  "settings.idle_exit_seconds does nothing here: use services.codex-image-service.onDemand and services.codex-image-service.idleExit" =
    {
      accounts.main = { };
      settings.idle_exit_seconds = 0;
    };
  "settings.state_dir does nothing here: use services.codex-image-service.stateDir" = {
    accounts.main = { };
    settings.state_dir = "/srv/pictures";
  };
  "settings.run_dir does nothing here" = {
    accounts.main = { };
    settings.run_dir = "/run/pictures";
  };
  "settings.codex_state_dir does nothing here" = {
    accounts.main = { };
    settings.codex_state_dir = "/srv/codex";
  };
  "settings.codex_keep_alive does nothing here: use services.codex-image-service.keepAlive" = {
    accounts.main = { };
    settings.codex_keep_alive = false;
  };
  "settings.codex_homes does nothing here: logins are declared by services.codex-image-service.accounts" =
    {
      accounts.main = { };
      settings.codex_homes = "other=/srv/other";
    };
  "settings.admin_password_file does nothing here: use services.codex-image-service.adminPasswordFile" =
    {
      accounts.main = { };
      settings.admin_password_file = "/run/secrets/password";
    };
  "settings.admin_session_secret_file does nothing here" = {
    accounts.main = { };
    settings.admin_session_secret_file = "/run/secrets/session";
  };
  "stateDir (\"/var/lib\") is a folder of many" = {
    accounts.main = { };
    stateDir = "/var/lib";
  };
  "settings.generated_dir (\"/srv\") is a folder of many" = {
    accounts.main = { };
    settings.generated_dir = "/srv";
  };
  "stateDir (\"/srv/\"): write a folder in its shortest form" = {
    accounts.main = { };
    stateDir = "/srv/";
  };
  "stateDir (\"/srv/pictures/..\"): write a folder in its shortest form" = {
    accounts.main = { };
    stateDir = "/srv/pictures/..";
  };
  "backup.path (\"/var/backup\") is a folder of many" = {
    accounts.main = { };
    backup = {
      enable = true;
      path = "/var/backup";
    };
  };
  "backup.path (\"/srv/pictures\") is, or holds, that of" = {
    accounts.main = { };
    stateDir = "/srv/pictures";
    backup = {
      enable = true;
      path = "/srv/pictures";
    };
  };
  "backup.path (\"/srv/all\") is, or holds, that of services.codex-image-service.settings.generated_dir" =
    {
      accounts.main = { };
      settings.generated_dir = "/srv/all/pictures";
      backup = {
        enable = true;
        path = "/srv/all";
      };
    };
  "settings.generated_dir (\"/srv/pictures\") is, or holds, that of services.codex-image-service.stateDir" =
    {
      accounts.main = { };
      stateDir = "/srv/pictures";
      settings.generated_dir = "/srv/pictures";
    };
  "stateDir (\"/var/lib/codex-image-worker/state\") is in the worker's own folder" = {
    accounts.main = { };
    stateDir = "/var/lib/codex-image-worker/state";
  };
  "settings.generated_dir (\"/var/lib/codex-image-worker/out\") is in the worker's own folder" = {
    accounts.main = { };
    settings.generated_dir = "/var/lib/codex-image-worker/out";
  };
  "stateDir (\"/home/me/pictures\") is in a home" = {
    accounts.main = { };
    stateDir = "/home/me/pictures";
  };
  "settings.generated_dir (\"/tmp\") is in a home" = {
    accounts.main = { };
    settings.generated_dir = "/tmp";
  };
  "backup.path (\"/root/copies\") is in a home" = {
    accounts.main = { };
    backup = {
      enable = true;
      path = "/root/copies";
    };
  };
  "settings.database_url (\"sqlite:////srv/pictures.db\") is not in" = {
    accounts.main = { };
    settings.database_url = "sqlite:////srv/pictures.db";
  };
}
