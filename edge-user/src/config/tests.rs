//! The example file is valid, and every error is found at its place.

use std::{
    path::{Path, PathBuf},
    sync::atomic::{AtomicU32, Ordering},
};

use super::*;

/// A folder that goes away with its guard.
pub(super) struct Folder(pub PathBuf);

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
pub(super) fn good_files() -> Folder {
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
fn example() -> String {
    EXAMPLE.replace("/etc/edge/", "")
}

#[test]
fn the_example_file_is_valid_and_without_warning() {
    let folder = good_files();
    let checked = check_text(&example(), &folder.0.join("edge.toml"), SystemTime::now());
    assert_eq!(checked.findings.render(true), "");
    let config = checked.config.unwrap();
    assert_eq!(config.access.tls.key, folder.0.join("edge.key"));
    assert_eq!(config.inside.tls, Some(config.access.tls.clone()));
    assert_eq!(config.inside.listen, [(Transport::Tls, "10.0.0.10:5061".parse().unwrap())]);
    assert_eq!(config.federation.allowed_domains.len(), 2);
    assert_eq!(config.firewall.rules[0].ports, [(80, 80), (8000, 8009)]);
    assert_eq!(config.management.ports, [22]);
}

#[test]
fn a_missing_file_is_an_error_and_paths_fall_back_to_their_defaults() {
    let path = Path::new("/nonexistent/edge.toml");
    let errors = load(path).unwrap_err();
    assert!(errors.to_string().starts_with("/nonexistent/edge.toml:1:1: error: the file cannot"));
    assert_eq!(paths_only(path).run, Path::new("/run/edge"));
}
