//! For tests, here and elsewhere: folders, certificates, and a valid configuration.

use std::{
    path::PathBuf,
    sync::atomic::{AtomicU32, Ordering},
};

use super::{Config, parse};

/// A folder that goes away with its guard.
pub(crate) struct Folder(pub PathBuf);

impl Folder {
    pub fn new() -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let path =
            std::env::temp_dir().join(format!("edge-config-{}-{number}", std::process::id()));
        std::fs::create_dir_all(&path).unwrap();
        Self(path)
    }

    pub fn write(&self, name: &str, content: impl AsRef<[u8]>, mode: u32) {
        use std::os::unix::fs::PermissionsExt;
        let path = self.0.join(name);
        std::fs::write(&path, content).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).unwrap();
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

const EXAMPLE: &str = include_str!("../../edge.example.toml");

/// Good files for `edge.contoso.example`, in a folder.
pub(crate) fn good_files() -> Folder {
    let folder = Folder::new();
    let key = rcgen::KeyPair::generate().unwrap();
    let params = rcgen::CertificateParams::new(vec!["edge.contoso.example".to_owned()]).unwrap();
    let certificate = params.self_signed(&key).unwrap();
    folder.write("edge.pem", certificate.pem(), 0o644);
    folder.write("edge.key", key.serialize_pem(), 0o600);
    folder.write("partners.pem", certificate.pem(), 0o644);
    folder
}

/// The example file, with the certificates of `folder`.
pub(crate) fn example() -> String {
    EXAMPLE.replace("/etc/edge/", "")
}

/// The example file, read.
pub(crate) fn config() -> Config {
    let folder = good_files();
    parse(&example(), &folder.0.join("edge.toml")).unwrap()
}

/// The example with every setting that it only shows.
pub(crate) fn with_every_setting(text: &str) -> String {
    let shown = |line: &str| match line.strip_prefix('#') {
        Some(rest) if rest.starts_with(|c: char| c == '[' || c.is_ascii_lowercase()) => {
            rest.to_owned()
        }
        _ => line.to_owned(),
    };
    text.lines().map(shown).collect::<Vec<_>>().join("\n") + "\n"
}

/// The example file with every setting and service, and media ports open for legacy partners.
pub(crate) fn with_services() -> Config {
    let folder = good_files();
    let text = with_every_setting(&example());
    let text = text.replace("legacy_partners = false", "legacy_partners = true");
    parse(&text, &folder.0.join("edge.toml")).unwrap()
}
