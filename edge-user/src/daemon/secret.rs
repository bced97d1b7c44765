//! The secrets that sign Record-Route and dialback keys: made once, kept in the state folder, never
//! logged.
//!
//! Members of a pool share a file that `[pool]` names, so that one accepts what another signed; it
//! outlives a restart, so that calls do too.

use std::{
    fs::{File, OpenOptions},
    io::{self, Read as _, Write as _},
    os::unix::fs::{MetadataExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
};

use ring::{
    hmac,
    rand::{SecureRandom as _, SystemRandom},
};

use crate::{config::Config, proxy::Secrets};

const NAME: &str = "route.key";
/// What dialback keys are made with (XEP-0185).
const DIALBACK: &str = "dialback.key";

/// Why there is no secret.
#[derive(Debug, thiserror::Error)]
pub enum SecretError {
    /// The file cannot be read or written.
    #[error("{path}: {source}")]
    Io {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The file is not one of ours.
    #[error("{0}: not a key of 32 bytes: remove it, a new one is made (live calls will end)")]
    Form(PathBuf),
    /// Others may read it.
    #[error("{0}: others may read this key: run `chmod 600` on it")]
    Readable(PathBuf),
    /// The system has no randomness.
    #[error("the system gave no random bytes")]
    Random,
}

/// The pool's secrets, or this appliance's own. What it signed before it was one of a pool is believed
/// beside a pool's only key.
pub fn secrets(config: &Config) -> Result<Secrets, SecretError> {
    let mut keys = config.pool.keys.iter();
    let Some(first) = keys.next() else {
        return Ok(Secrets { current: route_secret(&config.paths.state)?, former: None });
    };
    let read = |path: &PathBuf| {
        let io = |source| SecretError::Io { path: path.clone(), source };
        read(path, File::open(path).map_err(io)?)
    };
    let former = match keys.next() {
        Some(second) => Some(read(second)?),
        None => read(&config.paths.state.join(NAME)).ok(),
    };
    Ok(Secrets { current: read(first)?, former })
}

fn read(path: &Path, file: File) -> Result<[u8; 32], SecretError> {
    let io = |source| SecretError::Io { path: path.to_owned(), source };
    if file.metadata().map_err(io)?.mode() & 0o007 != 0 {
        return Err(SecretError::Readable(path.to_owned()));
    }
    let mut bytes = Vec::new();
    file.take(33).read_to_end(&mut bytes).map_err(io)?;
    bytes.try_into().map_err(|_| SecretError::Form(path.to_owned()))
}

/// What dialback keys are made with: the pool's, so that each member answers for what another said,
/// or this appliance's own.
pub fn dialback(config: &Config) -> Result<Secrets, SecretError> {
    if config.pool.keys.is_empty() {
        return Ok(Secrets { current: kept(&config.paths.state, DIALBACK)?, former: None });
    }
    let of_pool = |key: [u8; 32]| {
        let mut secret = [0; 32];
        let pool = hmac::Key::new(hmac::HMAC_SHA256, &key);
        secret.copy_from_slice(hmac::sign(&pool, b"edge dialback").as_ref());
        secret
    };
    let Secrets { current, former } = secrets(config)?;
    Ok(Secrets { current: of_pool(current), former: former.map(of_pool) })
}

/// A secret for this run.
pub fn once() -> Result<[u8; 32], SecretError> {
    let mut secret = [0; 32];
    SystemRandom::new().fill(&mut secret).map_err(|_| SecretError::Random)?;
    Ok(secret)
}

/// Reads the secret that signs Record-Route, or makes one.
pub fn route_secret(state: &Path) -> Result<[u8; 32], SecretError> {
    kept(state, NAME)
}

fn kept(state: &Path, name: &str) -> Result<[u8; 32], SecretError> {
    let path = state.join(name);
    let io = |source| SecretError::Io { path: path.clone(), source };
    match File::open(&path) {
        Ok(file) => read(&path, file),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            let secret = once()?;
            // Whole or not at all: written aside, then moved.
            let aside = state.join(format!(".{name}.{}", std::process::id()));
            let _ = std::fs::remove_file(&aside);
            let mut file = OpenOptions::new()
                .write(true)
                .create_new(true)
                .mode(0o600)
                .open(&aside)
                .map_err(io)?;
            file.write_all(&secret).and_then(|()| file.sync_all()).map_err(io)?;
            std::fs::rename(&aside, &path).map_err(io)?;
            // What it signs must hold after a power cut.
            File::open(state).and_then(|folder| folder.sync_all()).map_err(io)?;
            Ok(secret)
        }
        Err(error) => Err(io(error)),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    /// A pool's new key, of twos, and its old one, of ones.
    fn pool_keys(folder: &Path) -> [std::path::PathBuf; 2] {
        [("new", 2), ("old", 1)].map(|(name, byte)| {
            let path = folder.join(name);
            std::fs::write(&path, [byte; 32]).unwrap();
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).unwrap();
            path
        })
    }

    #[test]
    fn dialback_believes_both_keys_of_a_pool() {
        let folder = crate::config::tests_support::Folder::new();
        let mut config = crate::config::tests_support::with_services();
        config.paths.state = folder.0.clone();
        let alone = dialback(&config).unwrap();
        assert!(alone.former.is_none() && dialback(&config).unwrap() == alone);
        let keys = pool_keys(&folder.0);
        config.pool.keys = vec![keys[1].clone()];
        let before = dialback(&config).unwrap();
        config.pool.keys = keys.to_vec();
        let after = dialback(&config).unwrap();
        assert_eq!(after.former, Some(before.current));
        assert!(after.current != before.current && before.former.is_none());
        assert_ne!(before.current, [1; 32], "what signs Record-Route signs nothing else");
    }

    #[test]
    fn whoever_joins_a_pool_believes_what_it_signed_before() {
        let folder = crate::config::tests_support::Folder::new();
        let mut config = crate::config::tests_support::with_services();
        config.paths.state = folder.0.clone();
        let keys = pool_keys(&folder.0);
        config.pool.keys = vec![keys[0].clone()];
        assert_eq!(secrets(&config).unwrap().former, None, "there was no key before");
        config.pool.keys.clear();
        let own = secrets(&config).unwrap().current;
        config.pool.keys = vec![keys[0].clone()];
        assert_eq!(secrets(&config).unwrap(), Secrets { current: [2; 32], former: Some(own) });
        config.pool.keys = keys.to_vec();
        assert_eq!(secrets(&config).unwrap().former, Some([1; 32]), "the pool's own comes first");
    }

    #[test]
    fn the_secret_is_made_once_and_never_for_others_to_read() {
        let state = std::env::temp_dir().join(format!("edge-secret-{}", std::process::id()));
        let _ = std::fs::remove_dir_all(&state);
        std::fs::create_dir_all(&state).unwrap();
        let first = route_secret(&state).unwrap();
        assert_eq!(route_secret(&state).unwrap(), first);
        assert_ne!(first, [0; 32]);
        assert_ne!(kept(&state, DIALBACK).unwrap(), first);
        let path = state.join(NAME);
        assert_eq!(std::fs::metadata(&path).unwrap().mode() & 0o777, 0o600);
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o604)).unwrap();
        assert!(matches!(route_secret(&state), Err(SecretError::Readable(_))));
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).unwrap();
        std::fs::write(&path, b"short").unwrap();
        assert!(matches!(route_secret(&state), Err(SecretError::Form(_))));
        std::fs::remove_dir_all(state).unwrap();
    }
}
