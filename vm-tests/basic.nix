# A key, a picture through nginx, its file, and the sign-in to the admin pages: what a new user does.
{
  name = "codex-image-basic";
  nodes.machine = {
    imports = [ ./lib/node.nix ];
    networking.hosts."127.0.0.1" = [ "pictures.test" ];
    environment.etc.admin-password = {
      text = "a rather long password";
      mode = "0400";
    };
    # As for HSTS.
    services.nginx.commonHttpConfig = "add_header X-Of-The-Host yes;";
    services.codex-image-service = {
      adminPasswordFile = "/etc/admin-password";
      nginx = {
        enable = true;
        virtualHost = "pictures.test";
      };
    };
  };

  testScript = ''
    import json
    import shlex

    site = "http://pictures.test"
    machine.wait_for_unit("nginx.service")
    machine.wait_for_unit("codex-image-service.socket")
    machine.wait_for_unit("codex-image-worker.socket")

    with subtest("the wrapper makes a key and shows the logins, as root alone"):
        machine.succeed("codex-image-service keys create laptop > /root/key")
        machine.succeed("grep -qx 'cimg_.*' /root/key", "log-in main")
        t.assertIn("main", machine.succeed("codex-image-service logins list"))
        refused = machine.fail("setpriv --reuid=nobody --clear-groups codex-image-service keys list 2>&1")
        t.assertIn("run it as root", refused)
        machine.succeed("setpriv --reuid=nobody --clear-groups codex-image-service --version")
        t.assertIn("change it there", machine.fail("codex-image-service admin reset-password 2>&1"))

    with subtest("the service itself is never root's, nor is a command with its settings"):
        for words in ["", "serve", "serve --role worker", "--config /etc/codex-image-service/config.toml serve"]:
            t.assertIn("systemctl start", machine.fail(f"codex-image-service {words} 2>&1"))
        t.assertIn("systemctl start", machine.fail("codex-image-service -- 2>&1"))
        t.assertIn("unexpected argument '--versin'", machine.fail("codex-image-service --versin 2>&1"))
        machine.succeed(
            "codex-image-service --config /etc/codex-image-service/config.toml keys list",
            "codex-image-service --config=/etc/codex-image-service/config.toml check-config",
        )
        machine.succeed("test -z \"$(find /var/lib/codex-image-service -type f -user root)\"")
        # Somebody else's settings are theirs.
        machine.succeed("printf 'state_dir = \"/root/own\"\n' > /root/own.toml", "codex-image-service --config /root/own.toml keys list")
        machine.succeed("test \"$(stat -c %U /root/own)\" = root")

    with subtest("the settings are checked as the worker, and the socket is asked that is always there"):
        worker = "setpriv --reuid=codex-image-worker --regid=codex-image --clear-groups"
        t.assertEqual(
            machine.succeed("codex-image-service check-config 2>&1"),
            machine.succeed(f"{worker} codex-image-service check-config 2>&1"),
        )
        t.assertIn("run it as root", machine.fail("setpriv --reuid=nobody --clear-groups codex-image-service check-config 2>&1"))
        for words in ["healthcheck", "healthcheck --", "--config /etc/codex-image-service/config.toml healthcheck"]:
            t.assertIn("unix:/run/codex-image-service/http.sock", machine.succeed(f"codex-image-service {words}"))
        for address in ["http://127.0.0.1:8000/health", "-- http://127.0.0.1:8000/health"]:
            t.assertIn("http://127.0.0.1:8000/health answers", machine.succeed(f"codex-image-service healthcheck {address}"))

    with subtest("a picture through nginx"):
        made = json.loads(machine.succeed(f"ask /v1/images/generate '{{\"prompt\":\"a red kite\"}}' {site}"))
        t.assertEqual(made["status"], "succeeded")
        url = made["images"][0]["url"]
        t.assertTrue(url.startswith(f"{site}/generated/img_"), url)
        machine.succeed("test $(wc -l < /var/lib/codex-image-worker/home/payments.log) = 1")

    with subtest("the journal tells the job's story, and no prompt"):
        story = machine.succeed(f"journalctl --no-pager -o cat JOB_ID={made['id']}")
        for words in ["job accepted", "job begins", "picture stored", "job ended"]:
            t.assertIn(words, story)
        machine.fail("journalctl --no-pager | grep 'a red kite'")

    with subtest("nginx serves its file with the host's headers, and nothing else of the state"):
        machine.succeed("systemctl stop codex-image-service.service codex-image-service.socket")
        machine.succeed(f"curl -fsS -D /tmp/head -o /tmp/x.png {url}", "head -c 8 /tmp/x.png | grep -q PNG")
        head = machine.succeed("tr -d '\\r' < /tmp/head").lower()
        for line in [
            "content-type: image/png",
            "x-of-the-host: yes",
        ]:
            t.assertIn(line, head.splitlines())
        as_nginx = "setpriv --reuid=nginx --regid=nginx --clear-groups"
        machine.fail(f"{as_nginx} ls /var/lib/codex-image-service")
        machine.fail(f"{as_nginx} ls /var/lib/codex-image-service/generated")
        machine.fail(f"{as_nginx} cat /var/lib/codex-image-service/codex-image-service.db")
        machine.fail(f"{as_nginx} ls /run/codex-image-service")
        machine.systemctl("start codex-image-service.socket")

    with subtest("its headers are the service's, whole, in part and unchanged"):
        def headers(address, *words):
            said = machine.succeed(shlex.join(["curl", "-fsS", "-o", "/tmp/y", "-D", "-", *words, address]))
            status, *lines = said.replace("\r", "").strip().splitlines()
            found = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
            date = found["last-modified"]
            # Of the server, the connection, the host and the request; each has its own tags and clock; and
            # a part needs not say that there are parts.
            for name in ["server", "date", "connection", "etag", "last-modified", "accept-ranges", "x-of-the-host", "x-request-id"]:
                found.pop(name, None)
            return status.split()[1], found, date

        by_service = f"http://127.0.0.1:8000/generated/{url.rsplit('/', 1)[1]}"
        for status, options in [("200", []), ("200", ["--head"]), ("206", ["-H", "Range: bytes=0-9"])]:
            t.assertEqual(headers(by_service, *options)[:2], headers(url, *options)[:2])
            t.assertEqual(headers(url, *options)[0], status)
        kept, again = [headers(address, "-H", f"If-Modified-Since: {headers(address)[2]}") for address in [by_service, url]]
        t.assertEqual((kept[0], again[0]), ("304", "304"))
        # nginx says all of it again.
        t.assertEqual(kept[1], {name: again[1][name] for name in kept[1]})
        t.assertEqual(again[1]["x-content-type-options"], "nosniff")

    with subtest("and nothing else of the host has them"):
        said = machine.succeed("curl -sS -o /dev/null -D - http://pictures.test/health http://127.0.0.1/").lower()
        t.assertIn("x-of-the-host: yes", said)
        for name in ["content-security-policy", "max-age"]:
            t.assertNotIn(name, said)

    with subtest("who may reach the sockets is the folder's to say, and only root makes them"):
        run = "/run/codex-image-service"
        t.assertEqual(machine.succeed(f"stat -c %U:%G {run}").strip(), "root:codex-image")
        t.assertEqual(machine.succeed(f"stat -c %a:%U:%G {run}/bells").strip(), "2770:root:codex-image")
        ask_health = f"curl -fsS --unix-socket {run}/http.sock http://x/health"
        for user in ["codex-image", "codex-image-worker"]:
            as_user = f"setpriv --reuid={user} --regid=codex-image --clear-groups"
            machine.succeed(f"{as_user} {ask_health}")
            machine.fail(f"{as_user} touch {run}/planted", f"{as_user} mv {run}/http.sock {run}/bells/")
        machine.succeed(f"{as_nginx} {ask_health}")
        machine.fail(f"setpriv --reuid=nobody --regid=nogroup --clear-groups {ask_health}")
        # They need no restart when nginx comes or goes.
        machine.fail("grep -i -e nginx -e SocketUser -e SocketGroup /etc/systemd/system/codex-image-*.socket")

    with subtest("what nginx does not find, the service answers"):
        missing = f"{site}/generated/img_0123456789abcdef0123456789abcdef.png"
        t.assertIn("file_not_found", machine.succeed(f"curl -sS {missing}"))
        t.assertIn("file_not_found", machine.succeed(f"curl -sS {site}/generated/.codex-image-service"))
        t.assertIn("404", machine.succeed(f"curl -sS -o /dev/null -w '%{{http_code}}' {site}/metrics"))
        name = url.rsplit("/", 1)[1]
        machine.succeed(f"ln -s /etc/hostname /var/lib/codex-image-service/generated/{name.replace('.png', '_9.png')}")
        t.assertIn("file_not_found", machine.succeed(f"curl -sS {url.replace('.png', '_9.png')}"))

    with subtest("a .env that somebody planted does nothing"):
        machine.succeed(
            "install -d -m 1777 /tmp/planted && cd /tmp/planted",
            "printf '#!/bin/sh\\n: > /tmp/planted/ran\\n' > /tmp/planted/codex && chmod 755 /tmp/planted/codex",
            "printf 'CODEX_BIN=/tmp/planted/codex\\nDATABASE_URL=sqlite:////tmp/planted/other.db\\n' > /tmp/planted/.env",
            "systemctl stop codex-image-worker.service",
            "cd /tmp/planted && codex-image-service generate 'a blue kite' -o kite.png && head -c 8 kite.png | grep -q PNG",
            "cd /tmp/planted && codex-image-service backup copy.db && sqlite3 -readonly copy.db 'SELECT id FROM jobs' | grep -q img_",
        )
        machine.fail("test -e /tmp/planted/ran", "test -e /tmp/planted/other.db")

    with subtest("the operator signs in"):
        form = "-d username=admin --data-urlencode password@/etc/admin-password"
        login = f"curl -sS -o /dev/null -w '%{{http_code}}' -c /tmp/jar -H 'Origin: {site}' {site}/admin/login"
        t.assertEqual(machine.succeed(f"{login} {form}"), "303")
        machine.succeed(f"curl -fsS -b /tmp/jar {site}/admin | grep 'a red kite'")
        t.assertEqual(machine.succeed(f"{login} -d username=admin -d password=wrong"), "401")
        # Not from another site.
        t.assertEqual(machine.succeed(f"{login.replace(f'Origin: {site}', 'Origin: http://evil.test')} {form}"), "403")

    with subtest("tries to sign in are counted"):
        tries = login.replace("-o /dev/null ", "") + " -d username=admin -d password=wrong"
        t.assertIn("<center>nginx</center>", machine.succeed(f"for i in $(seq 20); do {tries}; done"))
        machine.succeed(f"curl -fsS {site}/admin/login")
  '';
}
