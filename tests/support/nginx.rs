//! A real nginx before the service, under a prefix, as operators put one there.

use std::{
    fs,
    net::{Ipv4Addr, SocketAddr, TcpStream},
    process::{Child, Command, Stdio},
};

use super::{cannot_run, chromium::program, setup::free_port, wait_for};

/// What becomes of the prefix on the way to the service.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Prefix {
    /// `proxy_pass http://service/;`
    Stripped,
    /// `proxy_pass http://service;`
    Kept,
}

/// The running nginx; it ends with this value.
pub struct Nginx {
    url: String,
    child: Child,
    folder: tempfile::TempDir,
}

impl Nginx {
    /// Passes what lies under `prefix` (`/pictures`) to `service`, which need not run yet; nothing
    /// where there is no nginx, and that is said.
    pub fn before(service: SocketAddr, prefix: &str, form: Prefix) -> Option<Self> {
        let Some(nginx) = program("nginx") else {
            cannot_run("there is no nginx; tests/run admin_browser installs it");
            return None;
        };
        let folder = super::temp_dir();
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, free_port()));
        let file = folder.path().join("nginx.conf");
        fs::write(&file, configuration(address, service, prefix, form)).unwrap();
        let log = fs::File::create(folder.path().join("error.log")).unwrap();
        let child = Command::new(nginx)
            .arg("-c")
            .arg(&file)
            .arg("-p")
            .arg(folder.path())
            // Before it has read its configuration it would write to Debian's log.
            .args(["-e", "stderr"])
            .env_clear()
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .unwrap();
        let mut nginx = Self { url: format!("http://{address}{prefix}"), child, folder };
        wait_for("nginx", || {
            let ended = nginx.child.try_wait().unwrap();
            assert!(ended.is_none(), "nginx: {ended:?}\n{}", nginx.log());
            TcpStream::connect(address).ok()
        });
        Some(nginx)
    }

    /// The URL of `path`, prefix included.
    pub fn url(&self, path: &str) -> String {
        format!("{}{path}", self.url)
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.url.split('/').nth(2).unwrap().parse().unwrap()
    }

    fn log(&self) -> String {
        fs::read_to_string(self.folder.path().join("error.log")).unwrap()
    }
}

impl Drop for Nginx {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        if std::thread::panicking() {
            println!("--- nginx's log\n{}---", self.log());
        }
    }
}

/// One process in the foreground, so that its end is the end of all; every path in its own folder,
/// so that anybody may start it.
fn configuration(address: SocketAddr, service: SocketAddr, prefix: &str, form: Prefix) -> String {
    let end = if form == Prefix::Stripped { "/" } else { "" };
    format!(
        "daemon off;
master_process off;
pid nginx.pid;
error_log stderr;
events {{}}
http {{
    access_log off;
    client_body_temp_path body;
    proxy_temp_path proxy;
    fastcgi_temp_path fastcgi;
    uwsgi_temp_path uwsgi;
    scgi_temp_path scgi;
    server {{
        listen {address};
        client_max_body_size 0;
        location {prefix}/ {{
            proxy_pass http://{service}{end};
            proxy_http_version 1.1;
            proxy_set_header Host $http_host;
            proxy_set_header X-Forwarded-For $proxy_add_x_forwarded_for;
            proxy_set_header X-Forwarded-Proto $scheme;
            # An event is passed on when it happens.
            proxy_buffering off;
        }}
        # A link that forgot the prefix leads nowhere.
        location / {{
            return 404;
        }}
    }}
}}
"
    )
}
