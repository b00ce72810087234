//! What `[gateway.NAME]` says about the network: proxies, ranges, pinned addresses, and hosts that are not what they look
//! like.

use std::io;
use std::path::PathBuf;

use outboxd::config::{self, Config, ConfigError, Surroundings, TlsMin};
use url::Url;

const V1: &str = "dialect = \"interactsms-v1\"\nusername = \"u\"\npassword_file = \"p\"\napi_id = 1\n";

fn parse(keys: &str, environment: &'static [(&'static str, &'static str)]) -> Result<Config, ConfigError> {
    let surroundings = Surroundings {
        mode: Some(0o640),
        directory: PathBuf::from("/etc/outboxd"),
        read: Box::new(|path| match path.file_name().and_then(|name| name.to_str()) {
            Some("p") => Ok(("secret".to_owned(), 0o100_640)),
            _ => Err(io::Error::from_raw_os_error(2)),
        }),
        env: Box::new(|wanted| {
            environment.iter().find(|(name, _)| *name == wanted).map(|(_, value)| (*value).to_owned())
        }),
    };
    let text = format!("[database]\nurl = \"host=/run/postgresql\"\n[gateway.main]\n{V1}{keys}\n");
    config::parse(&text, "outboxd.toml", &surroundings)
}

fn gateway(keys: &str, environment: &'static [(&'static str, &'static str)]) -> config::Gateway {
    let config = parse(keys, environment).unwrap_or_else(|error| panic!("{keys}\n{error}"));
    config.gateways["main"].clone()
}

#[track_caller]
fn refused(keys: &str, words: &[&str]) {
    let error = parse(keys, &[]).expect_err(keys).to_string();
    for word in words {
        assert!(error.contains(word), "{word:?} is not in\n{error}");
    }
}

#[test]
fn a_host_in_disguise_is_refused_and_shown_as_what_it_is() {
    for (host, shown) in [
        ("2130706433", "127.0.0.1"),
        ("0x7f000001", "127.0.0.1"),
        ("0x7f.1", "127.0.0.1"),
        ("017700000001", "127.0.0.1"),
        ("127.1", "127.0.0.1"),
        ("127.0.0.1.", "127.0.0.1"),
        ("127.0.0.01", "127.0.0.1"),
        ("%31%32%37.0.0.1", "127.0.0.1"),
        ("１２７.0.0.1", "127.0.0.1"),
        ("127。0。0。1", "127.0.0.1"),
        ("[::ffff:127.0.0.1]", "[::ffff:7f00:1]"),
        ("[::ffff:7f00:1]", "[::ffff:7f00:1]"),
        ("g%77.example", "gw.example"),
        ("ｇw.example", "gw.example"),
        ("g\\u00adw.example", "gw.example"),
        ("g\\tw.example", "gw.example"),
    ] {
        refused(
            &format!("url = \"https://{host}/send\""),
            &["another spelling", &format!("this is {shown}")],
        );
        refused(&format!("proxy = \"http://{host}:3128\""), &["another spelling"]);
    }
    for proxy in ["socks5h://0x7f.1:1080", "socks5://2130706433", "socks5h://127.1:1080"] {
        refused(&format!("proxy = \"{proxy}\""), &["another spelling"]);
    }
    refused("url = \"https:gw.example/send\"", &["another spelling"]);
    refused("url = \"https:///gw.example/send\"", &["another spelling"]);
}

#[test]
fn a_host_as_people_write_it_is_taken() {
    for host in [
        "gw.example",
        "GW.example",
        "gw.example.",
        "192.0.2.1",
        "[2001:db8::1]",
        "[2001:DB8:0::1]",
        "münchen.example",
    ] {
        gateway(&format!("url = \"https://{host}/send\"\nproxy = \"http://u_x.{}\"", "example:3128"), &[]);
    }
    for proxy in ["socks5h://192.0.2.1:1080", "socks5h://proxy.example", "http://[2001:db8::1]:3128"] {
        gateway(&format!("proxy = \"{proxy}\""), &[]);
    }
}

#[test]
fn literal_and_pinned_addresses_must_be_within_the_ranges() {
    let ranges = "allowed_addresses = [\"198.51.100.0/24\"]\n";
    for (keys, outside) in [
        ("url = \"https://192.0.2.1/send\"", "192.0.2.1"),
        ("url = \"https://[2001:db8::1]/send\"", "2001:db8::1"),
        ("proxy = \"http://192.0.2.2:3128\"", "192.0.2.2"),
        ("proxy = \"socks5h://192.0.2.2:1080\"", "192.0.2.2"),
        ("addresses = { \"secure.interactsms.com\" = [\"198.51.100.1\", \"192.0.2.3\"] }", "192.0.2.3"),
    ] {
        refused(&format!("{ranges}{keys}"), &[outside, "allowed_addresses"]);
    }
    gateway(&format!("{ranges}url = \"https://198.51.100.7/send\""), &[]);
    // What only the proxy connects to is the proxy's affair.
    gateway(&format!("{ranges}url = \"https://192.0.2.1/send\"\nproxy = \"http://198.51.100.8:3128\""), &[]);
    gateway(&format!("{ranges}addresses = {{ \"Secure.InteractSMS.com.\" = [\"198.51.100.1\"] }}"), &[]);
}

#[test]
fn what_could_have_no_effect_is_refused() {
    refused(
        "addresses = { \"gw.example\" = [\"192.0.2.1\"] }",
        &["nothing to do with", "secure.interactsms.com"],
    );
    refused("addresses = { \"secure.interactsms.com\" = [] }", &["without an address"]);
    refused("addresses = { \"secure.interactsms.com\" = [\"gw.example\"] }", &["no address"]);
    refused("allowed_addresses = [\"198.51.100.1/24\"]", &["no range"]);
    refused("source_address = \"eth0\"", &["no address"]);
    refused("tls_min = \"1.1\"", &["tls_min"]);
    refused("ca_exclusive = true", &["ca_file"]);
    refused("client_key_file = \"k.pem\"", &["client_certificate_file"]);
    refused("proxy_except = [\"https://gw.example\"]", &["no host"]);
}

#[test]
fn network_keys_come_to_what_they_say() {
    let found = gateway(
        "tls_min = \"1.3\"\nca_file = \"ca.pem\"\nca_exclusive = true\nsource_address = \"192.0.2.10\"\n\
         client_certificate_file = \"c.pem\"\n",
        &[],
    )
    .network;
    assert_eq!(found.tls_min, TlsMin::V1_3);
    assert!(found.ca_exclusive);
    assert_eq!(found.source_address, Some([192, 0, 2, 10].into()));
    let certificate = found.client_certificate.unwrap();
    assert_eq!(certificate.key_file, PathBuf::from("/etc/outboxd/c.pem"), "one file may hold both");
    let found = gateway("client_certificate_file = \"c.pem\"\nclient_key_file = \"k.pem\"", &[]).network;
    assert_eq!(found.tls_min, TlsMin::V1_2);
    assert_eq!(found.client_certificate.unwrap().key_file, PathBuf::from("/etc/outboxd/k.pem"));
}

/// The proxy for the gateway's own address, and for another one.
fn proxies(keys: &str, environment: &'static [(&'static str, &'static str)], target: &str) -> Option<String> {
    let gateway = gateway(keys, environment);
    gateway.proxy_for(&Url::parse(target).unwrap()).map(|proxy| proxy.expose().to_owned())
}

#[test]
fn the_environment_is_asked_for_a_proxy_only_when_that_is_said() {
    const SET: &[(&str, &str)] = &[
        ("https_proxy", "http://user:pw@lower.example:3128"),
        ("HTTPS_PROXY", "http://upper.example:3128"),
        ("HTTP_PROXY", "http://plain.example:3128"),
        ("ALL_PROXY", "socks5h://all.example"),
        ("NO_PROXY", "localhost, 10.0.0.0/8,.internal"),
    ];
    let target = "https://secure.interactsms.com/";
    assert_eq!(proxies("", SET, target), None);
    assert_eq!(proxies("proxy = \"env\"", &[], target), None);
    assert_eq!(
        proxies("proxy = \"env\"", SET, target).as_deref(),
        Some("http://user:pw@lower.example:3128"),
        "lower case first"
    );
    assert_eq!(
        proxies("proxy = \"env\"", &[("ALL_PROXY", "all.example:1")], target).as_deref(),
        Some("http://all.example:1")
    );
    let plain = "url = \"http://gw.example/\"\nallow_http = true\nproxy = \"env\"";
    assert_eq!(proxies(plain, SET, target).as_deref(), Some("http://plain.example:3128"));
    for direct in ["https://localhost/", "https://10.1.2.3/", "https://gw.internal/"] {
        assert_eq!(proxies("proxy = \"env\"", SET, direct), None, "{direct}");
        assert!(proxies("proxy = \"http://proxy.example\"", SET, direct).is_some(), "{direct}");
    }
    let error = parse("proxy = \"env\"", &[("HTTPS_PROXY", "ftp://u:s3cret@p")]).unwrap_err().to_string();
    assert!(error.contains("environment") && !error.contains("s3cret"), "{error}");
    let error = parse("proxy = \"env\"", &[("ALL_PROXY", "http://p"), ("NO_PROXY", "a:80")]).unwrap_err();
    assert!(error.to_string().contains("NO_PROXY"), "{error}");
}

#[test]
fn reach_names_what_is_connected_to_and_what_is_looked_up() {
    let seen = |keys: &str| {
        let gateway = gateway(keys, &[]);
        let urls = gateway.dialect.urls();
        let reach = gateway.reach(&urls.iter().collect::<Vec<_>>());
        let endpoints: Vec<String> =
            reach.endpoints.iter().map(|end| format!("{}:{}", end.host, end.port)).collect();
        (endpoints.join(" "), reach.lookups.into_iter().collect::<Vec<_>>().join(" "))
    };
    let host = "secure.interactsms.com";
    let pair = |endpoints: &str, lookups: &str| (endpoints.to_owned(), lookups.to_owned());
    assert_eq!(seen(""), pair(&format!("{host}:443"), host));
    let pinned = format!("addresses = {{ \"{host}\" = [\"192.0.2.1\"] }}");
    assert_eq!(seen(&pinned), pair(&format!("{host}:443"), ""));
    assert_eq!(seen("proxy = \"http://p.example\""), pair("p.example:80", "p.example"));
    assert_eq!(seen("proxy = \"socks5h://p.example\""), pair("p.example:1080", "p.example"));
    assert_eq!(
        seen("proxy = \"socks5://192.0.2.1\""),
        pair("192.0.2.1:1080", host),
        "the name is looked up here"
    );
    let except = format!("proxy = \"http://p.example\"\nproxy_except = [\"{host}\"]");
    assert_eq!(seen(&except), pair(&format!("{host}:443"), host));
}

fn database(keys: &str) -> Result<Config, ConfigError> {
    let surroundings = Surroundings {
        mode: Some(0o640),
        directory: PathBuf::from("/etc/outboxd"),
        read: Box::new(|path| match path.to_str() {
            Some("/etc/outboxd/pgpass") => Ok(("*:*:*:*:from-file\n".to_owned(), 0o100_600)),
            _ => Ok(("secret".to_owned(), 0o100_640)),
        }),
        env: Box::new(|_| None),
    };
    config::parse(&format!("[database]\n{keys}\n[gateway.main]\n{V1}"), "outboxd.toml", &surroundings)
}

#[test]
fn a_server_known_by_its_certificate_must_show_it() {
    let bare = "ab".repeat(32);
    let colons = vec!["AB"; 32].join(":");
    for host in ["db.example sslmode=prefer", "127.0.0.1", "db.example sslmode=verify-full"] {
        let keys = format!("url = \"host={host}\"\ncertificate_sha256 = [\"{bare}\", \"{colons}\"]");
        let database = database(&keys).unwrap_or_else(|error| panic!("{error}")).database;
        assert_eq!(database.pins, [[0xab; 32]; 2]);
        assert_eq!(database.connect.get_ssl_mode(), tokio_postgres::config::SslMode::Require, "{host}");
    }
    for (host, pin) in [
        ("/run/postgresql", bare.as_str()),
        ("db.example sslmode=disable", bare.as_str()),
        ("db.example", "ab"),
        ("db.example", &format!("{bare}0")),
        ("db.example", &format!("{}zz", &bare[2..])),
    ] {
        let keys = format!("url = \"host={host}\"\ncertificate_sha256 = [\"{pin}\"]");
        let error = database(&keys).expect_err(&keys).to_string();
        assert!(error.contains("certificate_sha256"), "{error}");
    }
}

#[test]
fn a_password_of_its_own_wins_over_a_passfile_and_neither_is_shown() {
    let url = "url = \"host=db.example user=u passfile=pgpass\"\n";
    let password = |keys: &str| {
        let config = database(keys).unwrap_or_else(|error| panic!("{error}"));
        assert!(!format!("{config:?}").contains("from-file"));
        String::from_utf8(config.database.connect.get_password().unwrap().to_vec()).unwrap()
    };
    assert_eq!(password(url), "from-file");
    assert_eq!(password(&format!("{url}password_file = \"p\"")), "secret");
}
