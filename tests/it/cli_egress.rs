//! `outboxd egress`: what must be open, for people, programs and firewalls.

use serde_json::json;

use crate::support::cli::{Cli, config, v1_gateway, v2_gateway};

const DATABASE: &str = "host=192.0.2.10 port=5433 dbname=x user=y";

/// A gateway at two literal addresses, so that no name server is needed.
fn cli(keys: &str) -> Cli {
    let gateway = v2_gateway("main", "https://192.0.2.20")
        .replace("https://192.0.2.20/token", "https://[2001:db8::20]:8443/token");
    Cli::new(&config(DATABASE, "", &format!("{gateway}{keys}")))
}

#[tokio::test]
async fn the_table_tells_people_what_to_ask_for_and_why() {
    let ended = cli("").run(&["egress"]).await.expect(0);
    assert_eq!(
        ended.stdout,
        "HOST          PORT  PROTOCOL  ADDRESSES NOW  WHY\n\
         192.0.2.10    5433  tcp       192.0.2.10     database\n\
         192.0.2.20    443   tcp       192.0.2.20     gateway main\n\
         2001:db8::20  8443  tcp       2001:db8::20   gateway main\n"
    );
}

#[tokio::test]
async fn a_local_socket_needs_no_opening_and_is_said_to() {
    let gateway = v1_gateway("main", "https://192.0.2.20/send");
    let ended = Cli::new(&config("host=/run/postgresql dbname=x user=y", "", &gateway))
        .run(&["egress"])
        .await
        .expect(0);
    assert!(ended.stdout.contains("local socket /run/postgresql: nothing to open"), "{ended:?}");
    assert!(!ended.stdout.contains("5432"), "{ended:?}");
}

#[tokio::test]
async fn every_host_of_the_database_and_both_ways_to_it_are_named() {
    let config = config("host=192.0.2.10,192.0.2.11 port=5433 dbname=x user=y", "", "").replace(
        "\n[text]",
        "pooler = \"transaction\"\ndirect_url = \"postgresql://y@db.example/x?hostaddr=192.0.2.12\"\n[text]",
    );
    let cli = Cli::new(&format!("{config}{}", v1_gateway("main", "https://192.0.2.20/send")));
    let found = cli.run(&["egress", "--format", "json"]).await.expect(0).json();
    let places: Vec<String> = found
        .as_array()
        .unwrap()
        .iter()
        .map(|opening| format!("{} {} {}", opening["host"], opening["port"], opening["addresses"][0]))
        .collect();
    assert_eq!(
        places,
        [
            r#""192.0.2.10" 5433 "192.0.2.10""#,
            r#""192.0.2.11" 5433 "192.0.2.11""#,
            r#""db.example" 5432 "192.0.2.12""#,
            r#""192.0.2.20" 443 "192.0.2.20""#
        ]
    );
    assert!(found.to_string().contains("past the pooler"), "{found}");
}

#[tokio::test]
async fn behind_a_proxy_only_the_proxy_is_open_and_says_what_it_must_allow() {
    let found = cli("proxy = \"http://user:correct-horse@192.0.2.30:3128\"\nproxy_except = [\"192.0.2.20\"]")
        .run(&["egress", "--format", "json"])
        .await
        .expect(0);
    assert!(!found.stdout.contains("correct-horse"), "{found:?}");
    assert_eq!(
        found.json()[1],
        json!({
            "host": "192.0.2.20", "port": 443, "protocol": "tcp", "addresses": ["192.0.2.20"], "why": "gateway main",
        })
    );
    assert_eq!(
        found.json()[2],
        json!({
            "host": "192.0.2.30", "port": 3128, "protocol": "tcp", "addresses": ["192.0.2.30"],
            "why": "proxy of gateway main, which must allow [2001:db8::20]:8443",
        })
    );
    assert_eq!(found.json().as_array().unwrap().len(), 3);
}

#[tokio::test]
async fn nftables_rules_let_one_user_out_to_the_list_and_count_the_rest() {
    let ended = cli("").run(&["egress", "--format", "nftables", "--user", "sms"]).await.expect(0);
    let rules: Vec<&str> = ended
        .stdout
        .lines()
        .map(str::trim)
        .filter(|line| !line.is_empty() && !line.starts_with('#'))
        .collect();
    assert_eq!(
        rules,
        [
            "table inet outboxd_egress",
            "delete table inet outboxd_egress",
            "table inet outboxd_egress {",
            "counter refused {",
            "}",
            "chain output {",
            "type filter hook output priority 0; policy accept;",
            "meta skuid \"sms\" goto daemon",
            "}",
            "chain daemon {",
            "ct state established counter accept",
            "ip daddr { 192.0.2.10 } tcp dport 5433 counter accept",
            "ip daddr { 192.0.2.20 } tcp dport 443 counter accept",
            "ip6 daddr { 2001:db8::20 } tcp dport 8443 counter accept",
            "counter name \"refused\" drop",
            "}",
            "}",
        ]
    );
    assert!(ended.stdout.contains("# 192.0.2.10:5433, database\n"), "each with its reason: {ended:?}");
}

#[tokio::test]
async fn what_is_written_into_rules_cannot_be_more_than_a_user() {
    for user in ["a b", "a\"; drop", "", "-x", "a\nb"] {
        cli("").run(&["egress", "--format", "nftables", &format!("--user={user}")]).await.expect(64);
    }
}

#[tokio::test]
async fn ranges_stand_in_the_rules_instead_of_the_addresses_of_the_moment() {
    let keys = "allowed_addresses = [\"192.0.2.16/28\", \"192.0.2.20\", \"192.0.2.0/24\", \"2001:db8::/32\"]";
    let ended = cli(keys).run(&["egress", "--format", "nftables"]).await.expect(0);
    assert!(
        ended.stdout.contains("ip daddr { 192.0.2.0/24 } tcp dport 443 counter accept\n"),
        "and none within another, which nftables refuses: {ended:?}"
    );
    let ended = cli(keys).run(&["egress", "--format", "systemd"]).await.expect(0);
    assert!(ended.stdout.contains("\nIPAddressAllow=192.0.2.0/24\n"), "{ended:?}");
}

#[tokio::test]
async fn the_drop_in_for_systemd_allows_the_list_and_who_posts_receipts() {
    let callbacks = "[callbacks]\nlisten = \"192.0.2.1:8025\"\npath_env = \"CALLBACK_PATH\"\n\
                     client_secret_env = \"GATEWAY_PASSWORD\"\n";
    let ended = cli(callbacks).run(&["egress", "--format", "systemd"]).await.expect(78);
    assert!(ended.stdout.is_empty() && ended.stderr.contains("allow_from"), "{ended:?}");

    let limited = format!("{callbacks}allow_from = [\"198.51.100.0/24\"]\n");
    let ended = cli(&limited).run(&["egress", "--format", "systemd"]).await.expect(0);
    let lines: Vec<&str> = ended.stdout.lines().filter(|line| !line.starts_with('#')).collect();
    assert_eq!(
        lines,
        [
            "[Service]",
            "IPAddressDeny=any",
            "IPAddressAllow=",
            "IPAddressAllow=localhost",
            "IPAddressAllow=192.0.2.10",
            "IPAddressAllow=192.0.2.20",
            "IPAddressAllow=198.51.100.0/24",
            "IPAddressAllow=2001:db8::20",
        ]
    );
}

#[tokio::test]
async fn a_name_that_cannot_be_looked_up_is_shown_and_makes_no_rules_with_a_gap() {
    let cli = Cli::new(&config(DATABASE, "", &v1_gateway("main", "https://gateway.invalid/send")));
    let ended = cli.run(&["egress"]).await.expect(69);
    let row = ended.stdout.lines().find(|line| line.starts_with("gateway.invalid")).expect("its row");
    assert!(row.contains("not found"), "{ended:?}");
    assert!(ended.stdout.contains("names: gateway.invalid"), "the name servers are on the list: {ended:?}");
    for format in ["nftables", "systemd"] {
        let ended = cli.run(&["egress", "--format", format]).await.expect(69);
        assert!(ended.stdout.is_empty() && ended.stderr.contains("gateway.invalid"), "{ended:?}");
    }
}

#[tokio::test]
async fn a_pinned_name_needs_no_name_server() {
    let gateway = v1_gateway("main", "https://gateway.invalid/send");
    let pinned = format!("{gateway}addresses = {{ \"gateway.invalid\" = [\"192.0.2.20\"] }}");
    let found =
        Cli::new(&config(DATABASE, "", &pinned)).run(&["egress", "--format", "json"]).await.expect(0).json();
    assert_eq!(found[1]["addresses"], json!(["192.0.2.20"]));
    assert_eq!(found.as_array().unwrap().len(), 2, "no port 53: {found}");
}

#[tokio::test]
async fn a_wrong_file_makes_no_list() {
    let ended = cli("tls_min = \"1.1\"").run(&["egress"]).await.expect(78);
    assert!(ended.stdout.is_empty() && ended.stderr.contains("tls_min"), "{ended:?}");
}
