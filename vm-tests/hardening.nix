# What the units may do, and that the front cannot reach the logins. That the real Codex has no shell
# for a prompt is proven where it is at hand: tests/codex_is_caged.rs, tests/systemd.rs.
{
  name = "codex-image-hardening";
  nodes.machine = {
    imports = [ ./lib/node.nix ];
    services.codex-image-service = {
      backup.enable = true;
      onDemand = false;
    };
  };

  testScript = ''
    machine.wait_for_unit("codex-image-service.service")
    machine.wait_for_unit("codex-image-worker.service")
    machine.succeed("log-in main", "codex-image-service keys create laptop > /root/key")

    def pid(unit):
        return machine.get_unit_property(unit, "MainPID")

    # Where they really are: of the machine the front sees these folders, not its profile.
    programs = machine.succeed(
        "for name in ls nsenter; do dirname $(readlink -f $(command -v $name)); done"
    ).split()

    def inside(unit, command):
        "In the unit's namespaces, as its user, with what it may and may not."
        user = machine.get_unit_property(unit, "User")
        return (
            f"PATH={':'.join(programs)} nsenter --target={pid(unit)} --mount --net --ipc --pid=/proc/{pid(unit)}/ns/pid_for_children "
            f"setpriv --reuid={user} --regid=codex-image --clear-groups --inh-caps=-all --no-new-privs {command}"
        )

    with subtest("systemd's judgement"):
        for unit, most in [
            ("codex-image-service", 0.6),
            ("codex-image-worker", 1.5),
            ("codex-image-cleanup", 0.6),
            ("codex-image-backup", 0.6),
            ("codex-image-healthcheck", 0.6),
        ]:
            machine.succeed(f"systemd-analyze security --no-pager --threshold={int(most * 10)} {unit}.service")

    with subtest("two users, and what each can read"):
        t.assertNotEqual(
            machine.succeed(f"stat -c %u /proc/{pid('codex-image-service.service')}"),
            machine.succeed(f"stat -c %u /proc/{pid('codex-image-worker.service')}"),
        )
        login = "/var/lib/codex-image-worker/logins/main/auth.json"
        front, worker = "codex-image-service.service", "codex-image-worker.service"
        machine.succeed(inside(front, "cat /var/lib/codex-image-service/codex-image-service.db > /dev/null"))
        t.assertEqual(machine.succeed(inside(front, "ls /var/lib")).split(), ["codex-image-service"])
        machine.fail(inside(front, f"cat {login}"))
        machine.fail(inside(front, "ls /var/lib/codex-image-worker"))
        machine.fail(inside(front, f"ls /proc/{pid(worker)}/root"))
        machine.succeed(inside(worker, f"cat {login} > /dev/null"))
        machine.fail(inside(worker, "cat /etc/shadow"))
        machine.fail(inside(worker, "touch /etc/written"))
        machine.fail(inside(worker, "ls /root"))

    with subtest("what the worker makes to work in, the front cannot replace"):
        work = "/var/lib/codex-image-service/work"
        machine.succeed(inside(worker, f"mkdir {work}/made"))
        machine.fail(inside(front, f"mv {work}/made {work}/other"), inside(front, f"rmdir {work}/made"))
        machine.succeed(inside(worker, f"rmdir {work}/made"))

    with subtest("the homes in which Codex runs are not where the front could make them"):
        machine.succeed("ask /v1/images/generate '{\"prompt\":\"a red kite\"}'")
        homes = machine.succeed("grep ^CODEX_HOME= /var/lib/codex-image-worker/home/environment.log").split()
        t.assertTrue(all(home.startswith("CODEX_HOME=/var/lib/codex-image-worker/") for home in homes), homes)

    with subtest("the front has no network"):
        t.assertEqual(machine.succeed(inside(front, "ls /sys/class/net")).split(), ["lo"])
        machine.succeed("curl -fsS http://127.0.0.1:8000/health")

    with subtest("no process listens that systemd did not give its socket"):
        listening = machine.succeed("ss -Hltnp | grep -v -e systemd -e '127.0.0.53' || true")
        t.assertNotIn("codex", listening)
        machine.succeed("ask /v1/images/generate '{\"prompt\":\"[fake listen]\"}'")
        t.assertEqual(machine.succeed("cat /var/lib/codex-image-worker/home/listen.log").strip(), "Operation not permitted")

    with subtest("the service makes no command of a prompt, nor shows Codex what it need not see"):
        machine.succeed("ask /v1/images/generate '{\"prompt\":\"$(touch /tmp/shell) `touch /tmp/shell`; touch /tmp/shell\"}'")
        # The last shows that the search sees it: /tmp may be a file system of its own.
        machine.succeed("mkdir /tmp/planted && touch /tmp/planted/shell")
        found = machine.succeed("find / /tmp -xdev -type f -name shell -path '*tmp*' | sort -u")
        t.assertEqual(found.split(), ["/tmp/planted/shell"])
        seen = machine.succeed("cut -d= -f1 /var/lib/codex-image-worker/home/environment.log").split()
        t.assertLessEqual(set(seen), {"CODEX_HOME", "HOME", "PATH", "LANG", "LC_CTYPE", "LOG_FORMAT", "RUST_LOG", "TZ"})

    with subtest("files are the group's, nobody else's"):
        machine.succeed("test -z \"$(find /var/lib/codex-image-service -perm /o=rwx ! -type l)\"")
        machine.succeed("test \"$(stat -c %a:%U /var/lib/codex-image-worker/logins/main)\" = 700:codex-image-worker")

    with subtest("stopping takes Codex along"):
        machine.succeed("systemctl stop codex-image-worker.socket codex-image-worker.service")
        machine.fail("pgrep -u codex-image-worker")
        t.assertEqual(machine.get_unit_property("codex-image-worker.service", "Result"), "success")
  '';
}
