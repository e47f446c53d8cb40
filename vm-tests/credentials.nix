# Secrets come as credentials: a seed becomes the login once, a newer one replaces it, an older one
# does not, and no secret is in a unit, an environment or the journal.
{
  name = "codex-image-credentials";
  nodes.machine = {
    imports = [ ./lib/node.nix ];
    services.codex-image-service = {
      accounts.main.authFile = "/run/seeds/main.json";
      adminPasswordFile = "/run/seeds/admin-password";
      sessionSecretFile = "/run/seeds/session-secret";
      environmentFile = "/run/seeds/the environment";
    };
    # It would start the worker before there is a seed.
    systemd.timers.codex-image-worker.enable = false;
  };

  testScript = ''
    import json

    worker = "codex-image-worker.service"
    home = "/var/lib/codex-image-worker/logins/main/auth.json"
    database = "/var/lib/codex-image-service/named-by-a-file.db"
    machine.wait_for_unit("codex-image-worker.socket")

    # Words that are in no script.
    def word():
        return machine.succeed("cat /proc/sys/kernel/random/uuid").strip()

    password, secret, first, second, third = (word() for _ in range(5))
    machine.succeed(
        "install -d -m 0700 /run/seeds",
        f"echo {password} > /run/seeds/admin-password",
        f"echo {secret} > /run/seeds/session-secret",
        f"echo 'DATABASE_URL=\"sqlite:///{database}\"' > '/run/seeds/the environment'",
        f"make-auth {first} 864000 -1000 > /run/seeds/main.json",
        "codex-image-service keys create laptop > /root/key",
    )

    def restarted():
        machine.succeed(f"systemctl restart {worker}")

    with subtest("variables of a file count in every unit, and for the command"):
        machine.succeed(f"test -s {database}")
        machine.succeed("systemctl start codex-image-cleanup.service")
        t.assertIn("laptop", machine.succeed("cd /run/seeds && codex-image-service keys list"))
        machine.succeed("cd /tmp && codex-image-service backup copy.db && test -s copy.db")
        refused = machine.execute("codex-image-service keys delete 'no $HOME' 2>&1")
        t.assertEqual(refused[0], 1)
        t.assertIn("no $HOME", refused[1])
        machine.fail("test -e /var/lib/codex-image-service/codex-image-service.db")
        # On a terminal, too.
        t.assertIn("laptop", machine.succeed("script -qec 'codex-image-service keys list' /dev/null < /dev/null"))
        machine.fail("script -qec 'codex-image-service keys delete none' /dev/null < /dev/null")

    with subtest("what is checked is what the worker has and may"):
        machine.succeed("echo METRICS=on >> '/run/seeds/the environment'")
        said = machine.succeed("codex-image-service check-config --json")
        metrics = next(it for it in json.loads(said)["settings"] if it["name"] == "METRICS")
        t.assertEqual(metrics["value"], "on")
        # A login that root left for itself.
        machine.succeed(f"install -m 0600 /run/seeds/main.json {home}")
        t.assertIn(home, machine.succeed("codex-image-service check-config 2>&1 > /dev/null"))
        machine.succeed(f"rm {home}")

    with subtest("the seed becomes the login, for the worker alone"):
        restarted()
        machine.succeed(f"cmp {home} /run/seeds/main.json")
        t.assertEqual(machine.succeed(f"stat -c %a:%U {home}").strip(), "600:codex-image-worker")
        machine.succeed("ask /v1/images/generate '{\"prompt\":\"a red kite\"}'")

    with subtest("what Codex renewed stays"):
        machine.succeed(f"make-auth {second} > /tmp/renewed", f"cp /tmp/renewed {home}")
        restarted()
        machine.succeed(f"cmp {home} /tmp/renewed")

    with subtest("an older seed does not replace it, a newer one does"):
        machine.succeed(f"make-auth {third} 864000 -5000 > /run/seeds/main.json")
        restarted()
        machine.succeed(f"cmp {home} /tmp/renewed")
        machine.succeed(f"make-auth {third} 864000 5000 > /run/seeds/main.json")
        restarted()
        machine.succeed(f"cmp {home} /run/seeds/main.json")
        machine.succeed("ask /v1/images/generate '{\"prompt\":\"a green kite\"}'")

    with subtest("the password counts"):
        login = "curl -sS -o /dev/null -w '%{http_code}' -H 'Origin: http://127.0.0.1:8000' http://127.0.0.1:8000/admin/login"
        t.assertEqual(machine.succeed(f"{login} -d username=admin -d password={password}"), "303")

    with subtest("no secret where others look"):
        # The search follows links, which all units are on NixOS.
        machine.succeed("grep -Rqs '^ExecStart=.*codex-image-service' /etc/systemd/system/")
        for value in [password, secret, first, second, third]:
            machine.fail(f"grep -Rqs {value} /etc/systemd/system/ /etc/codex-image-service/")
            machine.fail(f"journalctl --no-pager | grep {value}")
            for unit in ["codex-image-service.service", worker]:
                pid = machine.get_unit_property(unit, "MainPID")
                t.assertNotEqual(pid, "0")
                machine.fail(f"tr '\\0' '\\n' < /proc/{pid}/environ | grep {value}")
            machine.fail(f"grep {value} /var/lib/codex-image-worker/home/environment.log")
        # The front has the worker's credentials as little as the worker the front's.
        pid = machine.get_unit_property("codex-image-service.service", "MainPID")
        t.assertEqual(
            machine.succeed(f"ls /proc/{pid}/root/run/credentials/codex-image-service.service").split(),
            ["admin-password", "admin-session-secret"],
        )
  '';
}
