//! `/etc/resolv.conf` and `/etc/hosts`, as far as they are needed.

use std::{
    fs,
    io::Read,
    net::{IpAddr, SocketAddr},
    path::Path,
};

use crate::domain::Domain;

/// More than this of a file is not read.
const MAX_FILE: u64 = 1 << 20;
/// Servers of `resolv.conf` that count (resolv.conf(5), MAXNS).
const MAX_SERVERS: usize = 3;
/// Addresses of one host in `/etc/hosts` that count.
const MAX_ADDRESSES: usize = 16;

/// The name servers of a `resolv.conf`.
pub(super) fn name_servers(file: &Path) -> Vec<SocketAddr> {
    read(file)
        .lines()
        .filter_map(|line| {
            let mut words = line.split_whitespace();
            (words.next()? == "nameserver").then(|| words.next()?.parse::<IpAddr>().ok())?
        })
        .take(MAX_SERVERS)
        .map(|ip| SocketAddr::new(ip, 53))
        .collect()
}

/// The addresses a hosts file gives a name.
pub(super) fn hosts(file: &Path, name: &Domain) -> Vec<IpAddr> {
    read(file)
        .lines()
        .filter_map(|line| {
            let mut words = line.split('#').next()?.split_whitespace();
            let address: IpAddr = words.next()?.parse().ok()?;
            words.any(|word| word.eq_ignore_ascii_case(name.as_str())).then_some(address)
        })
        .take(MAX_ADDRESSES)
        .collect()
}

fn read(file: &Path) -> String {
    let mut bytes = Vec::new();
    let read = fs::File::open(file).and_then(|f| f.take(MAX_FILE).read_to_end(&mut bytes));
    match read {
        Ok(_) => String::from_utf8_lossy(&bytes).into_owned(),
        Err(error) => {
            tracing::debug!(file = %file.display(), %error, "cannot be read");
            String::new()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn servers_and_hosts_are_read_and_the_rest_is_ignored() {
        let folder = std::env::temp_dir().join(format!("edge-dns-files-{}", std::process::id()));
        fs::create_dir_all(&folder).unwrap();
        let resolv = folder.join("resolv.conf");
        fs::write(
            &resolv,
            "# nameserver 192.0.2.9\nsearch a.b\nnameserver 192.0.2.1\nnameserver 2001:db8::1\n\
             nameserver nonsense\nnameserver 192.0.2.2\nnameserver 192.0.2.3\n",
        )
        .unwrap();
        let got: Vec<_> = name_servers(&resolv).iter().map(ToString::to_string).collect();
        assert_eq!(got, ["192.0.2.1:53", "[2001:db8::1]:53", "192.0.2.2:53"]);

        let file = folder.join("hosts");
        fs::write(
            &file,
            "10.0.0.1 other.example Director.Contoso.example # director2.contoso.example\n\
             fd00::1 director.contoso.example\nnonsense director.contoso.example\n",
        )
        .unwrap();
        let got = hosts(&file, &"director.contoso.example".parse().unwrap());
        assert_eq!(got, ["10.0.0.1".parse::<IpAddr>().unwrap(), "fd00::1".parse().unwrap()]);
        assert!(hosts(&file, &"director2.contoso.example".parse().unwrap()).is_empty());
        assert!(name_servers(&folder.join("missing")).is_empty());
        fs::remove_dir_all(&folder).unwrap();
    }
}
