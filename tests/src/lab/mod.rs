//! The lab: network namespaces with a routed Internet in the middle, real DNS, real user agents,
//! certificates made on the spot. Everything it makes carries its name and goes with it.

pub mod baresip;
pub mod certs;
pub mod cleanup;
pub mod config;
pub mod counters;
pub mod daemon;
pub mod dialogue;
pub mod dns;
pub mod impostor;
pub mod kamailio;
pub mod layout;
pub mod links;
pub mod media;
pub mod netns;
pub mod openssl_peer;
pub mod phone;
pub mod process;
pub mod prosody;
pub mod recorder;
pub mod rtp;
pub mod scan;
pub mod sip_user;
pub mod sipp;
pub mod stunnel;
pub mod tls_client;
pub mod xmpp_client;

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail};

use self::{
    certs::Identities,
    dns::{Dns, honest_records},
    layout::Site,
    netns::Namespace,
};

/// A raised lab. Dropping it takes everything away.
pub struct Lab {
    prefix: String,
    dir: PathBuf,
    keep: bool,
    namespaces: Vec<(Site, Namespace)>,
    insides: Vec<(Site, Namespace)>,
    /// Certificates.
    pub identities: Identities,
    /// The DNS server.
    pub dns: Dns,
}

impl Lab {
    /// Raises a lab; `tag` is a short lower-case word. Labs of crashed runs are removed first.
    pub fn raise(tag: &str) -> Result<Self> {
        if !rustix::process::geteuid().is_root() {
            bail!("the lab makes network namespaces: run it as root");
        }
        cleanup::remove_stale();
        mount_bpffs()?;
        let prefix = format!("edge-{tag}-{}", std::process::id());
        let dir = cleanup::directory(&prefix);
        std::fs::create_dir_all(&dir).with_context(|| dir.display().to_string())?;
        std::fs::write(dir.join(cleanup::MARKER), "")?;
        cleanup::register(&prefix);
        Self::build(&prefix, &dir).inspect_err(|_| cleanup::remove(&prefix))
    }

    fn build(prefix: &str, dir: &Path) -> Result<Self> {
        let internet = netns::internet(prefix)?;
        let mut namespaces = Vec::new();
        let mut insides = Vec::new();
        for site in Site::ALL {
            let namespace = Namespace::create(&format!("{prefix}-{}", site.name()))?;
            netns::link_site(&internet, &namespace, site)?;
            if site.has_inside() {
                let inside = Namespace::create(&format!("{prefix}-{}-inside", site.name()))?;
                netns::link_inside(&namespace, &inside, site)?;
                insides.push((site, inside));
            }
            namespaces.push((site, namespace));
        }
        let identities = Identities::create(&dir.join("certificates"))?;
        let (_, resolver) =
            namespaces.iter().find(|(site, _)| *site == Site::Dns).context("no DNS site")?;
        let dns = Dns::start(resolver, &dir.join("dns"), &Site::Dns.outside(), honest_records())?;
        Ok(Self {
            prefix: prefix.to_owned(),
            dir: dir.to_owned(),
            keep: false,
            namespaces,
            insides,
            identities,
            dns,
        })
    }

    /// Its name: the beginning of every name it made.
    pub fn prefix(&self) -> &str {
        &self.prefix
    }

    /// Its folder.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// A site's outer namespace: its edge, or the host itself.
    pub fn site(&self, site: Site) -> &Namespace {
        find(&self.namespaces, site)
    }

    /// The namespace of the servers behind a site's edge.
    pub fn inside(&self, site: Site) -> &Namespace {
        find(&self.insides, site)
    }

    /// Leaves everything in place after the process ends.
    pub fn keep(&mut self) -> Result<()> {
        self.keep = true;
        std::fs::write(self.dir.join(cleanup::KEPT), "")?;
        cleanup::forget(&self.prefix);
        Ok(())
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        if !self.keep {
            cleanup::remove(&self.prefix);
        }
    }
}

fn find(list: &[(Site, Namespace)], site: Site) -> &Namespace {
    match list.iter().find(|(of, _)| *of == site) {
        Some((_, namespace)) => namespace,
        None => panic!("{} has no such namespace", site.name()),
    }
}

/// Pins need a bpffs. The set-up step mounts it; a machine that was rebooted since has none.
fn mount_bpffs() -> Result<()> {
    const BPF_FS_MAGIC: i64 = 0xcafe_4a11;
    let stat = rustix::fs::statfs(cleanup::BPFFS).context(cleanup::BPFFS)?;
    if stat.f_type == BPF_FS_MAGIC {
        return Ok(());
    }
    rustix::mount::mount(
        "bpf",
        cleanup::BPFFS,
        "bpf",
        rustix::mount::MountFlags::NOSUID
            | rustix::mount::MountFlags::NODEV
            | rustix::mount::MountFlags::NOEXEC,
        None,
    )
    .context("cannot mount a bpffs: mount -t bpf bpf /sys/fs/bpf")
}
