//! Any text as a configuration: an answer, with errors that can be shown, and a valid one
//! compiles into rules or says why it does not.

use std::{
    fs::{self, Permissions},
    os::unix::fs::PermissionsExt as _,
    path::PathBuf,
    sync::OnceLock,
};

use edge_user::{config, firewall::plan};

/// A folder with the certificates that the example names.
fn file() -> &'static PathBuf {
    static FILE: OnceLock<PathBuf> = OnceLock::new();
    FILE.get_or_init(|| {
        let folder = std::env::temp_dir().join("edge-fuzz-config");
        fs::create_dir_all(&folder).expect("a folder");
        let key = rcgen::KeyPair::generate().expect("a key");
        let names = vec!["edge.contoso.example".to_owned()];
        let params = rcgen::CertificateParams::new(names).expect("names");
        let certificate = params.self_signed(&key).expect("a certificate");
        for (name, text) in [
            ("edge.pem", certificate.pem()),
            ("edge.key", key.serialize_pem()),
            ("partners.pem", certificate.pem()),
        ] {
            let path = folder.join(name);
            fs::write(&path, text).expect("a file");
            fs::set_permissions(&path, Permissions::from_mode(0o600)).expect("its mode");
        }
        folder.join("edge.toml")
    })
}

/// Whatever comes, what must hold does: else it panics.
pub fn run(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    // The example's files lie in our folder; no other folder is read.
    let text = text.replace("/etc/edge/", "");
    if text.contains("\"/") || text.contains("../") || text.contains("'/") {
        return;
    }
    match config::parse(&text, file()) {
        Ok(config) => {
            if let Err(fault) = plan::compile(&config) {
                assert!(!fault.to_string().is_empty());
            }
        }
        Err(findings) => assert!(!findings.to_string().is_empty()),
    }
}
