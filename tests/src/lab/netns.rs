//! Network namespaces and the links between them. Never touches a device of the root namespace:
//! both ends of every veth pair are created inside namespaces of the lab.

use std::{
    fs::File,
    io::{ErrorKind, Write as _},
    net::{SocketAddr, TcpListener, UdpSocket},
    os::fd::AsFd as _,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

use super::layout::{INTERNET, Site};
use crate::patience::{BUSY, eventually, patience};

/// Where iproute2 keeps named namespaces.
const NETNS: &str = "/run/netns";

/// Settings of every namespace: addresses are usable at once, and no link is slow to come up.
const SYSCTLS: [(&str, &str); 4] = [
    ("ipv6/conf/default/accept_dad", "0"),
    ("ipv6/conf/all/accept_dad", "0"),
    ("ipv6/conf/default/accept_ra", "0"),
    ("ipv4/ping_group_range", "0 2147483647"),
];

/// One network namespace.
#[derive(Clone, Debug)]
pub struct Namespace {
    name: String,
}

impl Namespace {
    /// Makes it, with loopback up.
    pub fn create(name: &str) -> Result<Self> {
        ip(&["netns", "add", name])?;
        let namespace = Self { name: name.to_owned() };
        namespace.run(|| {
            for (key, value) in SYSCTLS {
                let path = Path::new("/proc/sys/net").join(key);
                std::fs::write(&path, value).with_context(|| path.display().to_string())?;
            }
            Ok::<_, anyhow::Error>(())
        })??;
        namespace.ip_batch("link set lo up\n")?;
        Ok(namespace)
    }

    /// One that is there already, by its full name.
    pub fn existing(name: &str) -> Self {
        Self { name: name.to_owned() }
    }

    /// Its full name, as `ip netns` shows it.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The file that stands for it.
    pub fn path(&self) -> PathBuf {
        Path::new(NETNS).join(&self.name)
    }

    /// Runs `work` on a thread of its own inside the namespace. Sockets made there stay there.
    pub fn run<T: Send>(&self, work: impl FnOnce() -> T + Send) -> Result<T> {
        let file = File::open(self.path())
            .with_context(|| format!("cannot open namespace {}", self.name))?;
        std::thread::scope(|scope| {
            scope
                .spawn(move || {
                    move_into_link_name_space(file.as_fd(), Some(LinkNameSpaceType::Network))
                        .context("setns")?;
                    Ok(work())
                })
                .join()
                .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        })
    }

    /// A UDP socket inside.
    ///
    /// # Errors
    /// When the address is not of here, or stays taken.
    pub fn udp(&self, at: SocketAddr) -> Result<UdpSocket> {
        self.bind(at, UdpSocket::bind)
    }

    /// A listener for TCP inside.
    ///
    /// # Errors
    /// When the address is not of here, or stays taken.
    pub fn listen(&self, at: SocketAddr) -> Result<TcpListener> {
        self.bind(at, TcpListener::bind)
    }

    /// Binds, and asks again for a while when the address is taken: while another test starts a
    /// program, the child has every socket of this process until it has become that program, so
    /// an address lives a moment longer than the socket that was closed.
    fn bind<T: Send>(
        &self,
        at: SocketAddr,
        bind: impl Fn(SocketAddr) -> std::io::Result<T> + Send,
    ) -> Result<T> {
        let end = Instant::now() + patience(BUSY);
        let bound = self.run(move || {
            loop {
                match bind(at) {
                    Err(error) if error.kind() == ErrorKind::AddrInUse && Instant::now() < end => {
                        std::thread::sleep(Duration::from_millis(5));
                    }
                    other => return other,
                }
            }
        })?;
        bound.with_context(|| format!("{at} in {}", self.name))
    }

    /// Waits until its devices carry packets: the kernel takes a link into use a moment after both
    /// ends are up, and what is sent before is lost.
    ///
    /// # Panics
    /// When one never does.
    pub fn wait_links(&self) {
        eventually("the links carry packets", || {
            let shown = Command::new("ip").args(["-n", &self.name, "-o", "link", "show"]).output();
            let text = shown.map(|output| String::from_utf8_lossy(&output.stdout).into_owned());
            let is_used = |line: &str| line.contains("state UP") || line.contains("state UNKNOWN");
            text.is_ok_and(|text| !text.is_empty() && text.lines().all(is_used))
        });
    }

    /// A command that will run inside (bpffs stays visible, unlike with `ip netns exec`).
    pub fn command(&self, program: impl AsRef<std::ffi::OsStr>) -> Command {
        let mut command = Command::new("nsenter");
        command.arg(format!("--net={}", self.path().display())).arg("--").arg(program);
        command
    }

    /// Runs lines of `ip -batch` inside.
    pub fn ip_batch(&self, lines: &str) -> Result<()> {
        let mut child = Command::new("ip")
            .args(["-n", &self.name, "-batch", "-"])
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .context("ip (package iproute2) does not start")?;
        if let Some(mut stdin) = child.stdin.take() {
            stdin.write_all(lines.as_bytes())?;
        }
        let output = child.wait_with_output()?;
        if !output.status.success() {
            bail!(
                "ip -batch in {}: {}\n{lines}",
                self.name,
                String::from_utf8_lossy(&output.stderr).trim()
            );
        }
        Ok(())
    }

    /// Process ids that live in it.
    pub fn pids(name: &str) -> Vec<i32> {
        let output = Command::new("ip").args(["netns", "pids", name]).output();
        let text = output.map(|o| String::from_utf8_lossy(&o.stdout).into_owned());
        text.unwrap_or_default().split_whitespace().filter_map(|pid| pid.parse().ok()).collect()
    }

    /// Takes it away; its devices go with it.
    pub fn delete(name: &str) {
        let _ = Command::new("ip")
            .args(["netns", "delete", name])
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .status();
    }

    /// Names of the namespaces that begin with `prefix`.
    pub fn with_prefix(prefix: &str) -> Vec<String> {
        let Ok(entries) = std::fs::read_dir(NETNS) else { return Vec::new() };
        entries
            .flatten()
            .filter_map(|entry| entry.file_name().into_string().ok())
            .filter(|name| name.starts_with(prefix))
            .collect()
    }
}

/// Connects a site to the Internet: `ext0` on its side, a device with its name on the other.
pub fn link_site(internet: &Namespace, edge: &Namespace, site: Site) -> Result<()> {
    let name = site.name();
    internet.ip_batch(&format!(
        "link add {name} type veth peer name ext0 netns {edge_name}\n\
         addr add {router4}/28 dev {name}\n\
         addr add {router6}/64 dev {name} nodad\n\
         link set {name} up\n",
        edge_name = edge.name(),
        router4 = site.router4(),
        router6 = site.router6(),
    ))?;
    edge.ip_batch(&format!(
        "addr add {v4}/28 dev ext0\n\
         addr add {v6}/64 dev ext0 nodad\n\
         link set ext0 up\n\
         route add default via {router4}\n\
         route add ::/0 via {router6}\n",
        v4 = site.v4(),
        v6 = site.v6(),
        router4 = site.router4(),
        router6 = site.router6(),
    ))
}

/// Connects a site's edge (`int0`) to its inside server (`eth0`).
pub fn link_inside(edge: &Namespace, inside: &Namespace, site: Site) -> Result<()> {
    edge.ip_batch(&format!(
        "link add int0 type veth peer name eth0 netns {inside_name}\n\
         addr add {edge4}/24 dev int0\n\
         addr add {edge6}/64 dev int0 nodad\n\
         link set int0 up\n",
        inside_name = inside.name(),
        edge4 = site.edge_inside4(),
        edge6 = site.edge_inside6(),
    ))?;
    inside.ip_batch(&format!(
        "addr add {server4}/24 dev eth0\n\
         addr add {server6}/64 dev eth0 nodad\n\
         link set eth0 up\n\
         route add default via {edge4}\n\
         route add ::/0 via {edge6}\n",
        server4 = site.server4(),
        server6 = site.server6(),
        edge4 = site.edge_inside4(),
        edge6 = site.edge_inside6(),
    ))
}

/// Makes the namespace in the middle.
pub fn internet(prefix: &str) -> Result<Namespace> {
    let namespace = Namespace::create(&format!("{prefix}-{INTERNET}"))?;
    namespace.run(|| {
        std::fs::write("/proc/sys/net/ipv4/ip_forward", "1")?;
        std::fs::write("/proc/sys/net/ipv6/conf/all/forwarding", "1")
    })??;
    Ok(namespace)
}

fn ip(arguments: &[&str]) -> Result<()> {
    let output = Command::new("ip")
        .args(arguments)
        .output()
        .context("ip (package iproute2) does not start")?;
    if !output.status.success() {
        bail!("ip {}: {}", arguments.join(" "), String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(())
}
