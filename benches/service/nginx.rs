//! nginx as the measure of downloads: a folder of files, with sendfile, on a port of its own.

use std::{
    fs,
    net::TcpListener,
    path::Path,
    process::{Child, Command, Stdio},
};

use crate::support::{http::Endpoint, temp_dir, wait_for};

/// A running nginx; it ends with this value.
pub struct Nginx {
    child: Child,
    port: u16,
    _dir: tempfile::TempDir,
}

impl Nginx {
    /// Serves `root`.
    pub fn start(root: &Path) -> Result<Self, String> {
        let dir = temp_dir();
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let config = dir.path().join("nginx.conf");
        fs::write(&config, text(root, dir.path(), port)).unwrap();
        let log = dir.path().join("error.log");
        let child = ["nginx", "/usr/sbin/nginx"]
            .iter()
            .find_map(|program| {
                Command::new(program)
                    .args(["-e".as_ref(), log.as_os_str(), "-c".as_ref(), config.as_os_str()])
                    .stdin(Stdio::null())
                    .stdout(Stdio::null())
                    .spawn()
                    .ok()
            })
            .ok_or("nginx can't be run; on Debian: apt-get install nginx")?;
        wait_for("nginx", || Endpoint::Tcp(([127, 0, 0, 1], port).into()).connect().ok());
        Ok(Self { child, port, _dir: dir })
    }

    /// Where `file` of the folder is.
    pub fn url(&self, file: &str) -> String {
        format!("http://127.0.0.1:{}/{file}", self.port)
    }
}

impl Drop for Nginx {
    fn drop(&mut self) {
        // Not SIGKILL: the master process ends its workers.
        crate::support::process::signal(
            self.child.id().cast_signed(),
            rustix::process::Signal::TERM,
        );
        let _ = self.child.wait();
    }
}

/// As a careful administrator would have it for files.
fn text(root: &Path, dir: &Path, port: u16) -> String {
    // A master that is root gives its workers away; then they can't read the state directory.
    let user = if rustix::process::geteuid().is_root() { "user root;" } else { "" };
    let (root, dir) = (root.display(), dir.display());
    format!(
        "{user} daemon off; worker_processes auto; pid {dir}/pid; error_log {dir}/error.log;\n\
         events {{ worker_connections 1024; }}\n\
         http {{ access_log off; sendfile on; tcp_nopush on; keepalive_requests 1000000000;\n\
         client_body_temp_path {dir}/a; proxy_temp_path {dir}/b; fastcgi_temp_path {dir}/c;\n\
         uwsgi_temp_path {dir}/d; scgi_temp_path {dir}/e; types {{ image/png png; }}\n\
         server {{ listen 127.0.0.1:{port}; root \"{root}\"; }} }}\n"
    )
}
