# Names that more than one unit, the wrapper and the rendered units agree on.
rec {
  front = "codex-image";
  worker = "codex-image-worker";
  # Both are in it; what both use belongs to it.
  group = "codex-image";
  # Root's: systemd binds in it by path, so nobody else may put something there.
  runDir = "/run/codex-image-service";
  httpSocket = "${runDir}/http.sock";
  # Both users': in it the front binds its own bell.
  bellsDir = "${runDir}/bells";
  workerBell = "${bellsDir}/worker.bell";
  # Empty but for names: what the front sees of the machine is mounted in it.
  rootDir = "${runDir}/root";
  # The worker's own: Codex's HOME, the homes in which it runs, and the logins.
  privateDir = "/var/lib/codex-image-worker";
  loginsDir = "${privateDir}/logins";
  codexDir = "${privateDir}/codex";
  homeDir = "${privateDir}/home";
  slice = "system-codeximage.slice";
}
