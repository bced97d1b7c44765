//! `[revocation]` and `[[service.access.identity]]`.

use std::time::Duration;

use rcgen::{
    BasicConstraints, CertificateParams, CertificateRevocationListParams, DnType, IsCa, Issuer,
    KeyIdMethod, KeyPair, SerialNumber, date_time_ymd,
};

use super::{
    tests_support::{Folder, example, good_files},
    *,
};

/// A list of nobody, good until a year.
fn list(until: i32) -> Vec<u8> {
    let mut params = CertificateParams::default();
    params.distinguished_name.push(DnType::CommonName, "root");
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let issuer = Issuer::new(params, KeyPair::generate().unwrap());
    let list = CertificateRevocationListParams {
        this_update: date_time_ymd(2020, 1, 1),
        next_update: date_time_ymd(until, 1, 1),
        crl_number: SerialNumber::from(1_u64),
        issuing_distribution_point: None,
        revoked_certs: Vec::new(),
        key_identifier_method: KeyIdMethod::Sha256,
    };
    list.signed_by(&issuer).unwrap().der().to_vec()
}

fn folder() -> Folder {
    let folder = good_files();
    folder.write("good.crl", list(2044), 0o644);
    folder.write("old.crl", list(2021), 0o644);
    let key = KeyPair::generate().unwrap();
    let names = ["sip.b.example", "b.example"].map(str::to_owned);
    let certificate = CertificateParams::new(names).unwrap().self_signed(&key).unwrap();
    folder.write("b.pem", certificate.pem(), 0o644);
    folder.write("b.key", key.serialize_pem(), 0o600);
    folder
}

/// The example with more at its end, or with these lines of the access service.
fn check(access: &str, more: &str) -> Checked {
    let folder = folder();
    let begin = "\n[inside]\n";
    assert!(example().contains(begin));
    let text = example().replace(begin, &format!("\n{access}{begin}")) + more;
    check_text(&text, &folder.0.join("edge.toml"), SystemTime::now())
}

fn parsed(access: &str, more: &str) -> Config {
    let checked = check(access, more);
    checked.config.unwrap_or_else(|| panic!("{}", checked.findings.render(false)))
}

#[test]
fn revocation_is_off_unless_asked_for() {
    let config = parsed("", "");
    let expected = Revocation { refresh: Duration::from_secs(3600), ..Revocation::default() };
    assert_eq!(config.revocation, expected);
    let config = parsed(
        "",
        "[revocation]\nfiles = \"good.crl\"\npoints = true\nmode = \"hard\"\nrefresh = \"10min\"\n",
    );
    let Revocation { files, points, hard, refresh } = config.revocation;
    assert!(files.len() == 1 && files[0].ends_with("good.crl") && files[0].is_absolute());
    assert_eq!((points, hard, refresh), (true, true, Duration::from_secs(600)));
}

#[test]
fn what_is_wrong_with_revocation_is_said() {
    for (lines, error, words) in [
        ("files = [\"missing.crl\"]", true, "cannot be read"),
        ("files = [\"edge.pem\"]", true, "not a certificate revocation list"),
        ("files = [\"\"]", true, "no path"),
        ("files = [\"good.crl\", \"old.crl\"]", false, "time is over"),
        ("mode = \"hard\"", true, "refuses every partner"),
        ("mode = \"strict\"", true, "no mode"),
        ("refresh = \"1s\"", true, "out of range"),
        ("points = \"yes\"", true, "true or false"),
        ("point = true", true, "points"),
    ] {
        let ConfigErrors { errors, warnings, .. } =
            check("", &format!("[revocation]\n{lines}\n")).findings;
        let (list, other) = if error { (errors, warnings) } else { (warnings, errors) };
        assert!(other.is_empty() && list.len() == 1, "{lines}: {list:?} {other:?}");
        let text = format!("{} {}", list[0].message, list[0].mend);
        assert!(text.contains(words), "{lines}: {text}");
        assert!(list[0].source.contains(lines.split(' ').next().unwrap()), "{:?}", list[0]);
    }
}

#[test]
fn identities_need_files_names_and_a_certificate_that_holds_them() {
    const B: &str = "certificate = \"b.pem\"\nkey = \"b.key\"\n";
    let identity = |lines: &str| format!("[[service.access.identity]]\n{lines}");
    let good = identity(&format!("names = [\"sip.b.example\", \"B.example\"]\n{B}"));
    let config = parsed(&good, "");
    let names: Vec<&str> =
        config.access.identities[0].names.iter().map(crate::domain::Domain::as_str).collect();
    assert_eq!(names, ["sip.b.example", "b.example"]);
    for (access, words) in [
        (identity(&format!("names = [\"c.example\"]\n{B}")), "does not hold c.example"),
        (identity(&format!("names = []\n{B}")), "for no name"),
        (identity(B), "names is missing"),
        (
            identity("names = [\"b.example\"]\ncertificate = \"b.pem\"\nkey = \"edge.key\"\n"),
            "does not belong",
        ),
        (
            identity("names = [\"b.example\"]\ncertificate = \"x.pem\"\nkey = \"b.key\"\n"),
            "cannot be read",
        ),
        (identity("names = [\"b.example\"]\ncertificate = \"b.pem\"\n"), "key is missing"),
        (
            good.clone() + &identity(&format!("names = [\"b.example\"]\n{B}")),
            "named twice among the identities",
        ),
        (identity(&format!("names = [\"b.example\"]\ntrust = \"x\"\n{B}")), "trust"),
    ] {
        let errors = check(&access, "").findings.errors;
        assert!(errors.len() == 1 && errors[0].message.contains(words), "{access}: {errors:?}");
    }
}
