//! The trials. Each says in a few words what was seen, or why it could not be played here.

use std::future::Future;
use std::pin::Pin;

use serde_json::json;

use crate::inspection::{Authority, Inspector, inspector};
use crate::net::{DANTE, DATABASE6, EVIL, EVIL6, GATEWAY, GATEWAY6, NAMES6, SQUID};
use crate::peers::{DANTE_PORT, PROXY_PASSWORD, PROXY_USER, SQUID_PORT, dante, installed, squid};
use crate::site::{LIMIT, World, ask_at};
use crate::support::eventually;

/// What was seen, or why nothing was.
type Outcome = Result<String, String>;
type Trial = fn() -> Pin<Box<dyn Future<Output = Outcome>>>;

pub(crate) const ALL: [(&str, Trial); 11] = [
    ("the_list_is_enough_and_the_counter_counts", || Box::pin(the_list_is_enough())),
    ("a_redirect_leads_nowhere", || Box::pin(a_redirect_leads_nowhere())),
    ("a_rebinding_resolver_leads_nowhere", || Box::pin(a_rebinding_resolver_leads_nowhere())),
    ("without_ranges_the_firewall_holds", || Box::pin(without_ranges_the_firewall_holds())),
    ("through_squid_with_a_password", || Box::pin(through_squid())),
    ("through_dante_with_a_password", || Box::pin(through_dante())),
    ("a_squid_that_inspects_what_is_tunnelled", || Box::pin(inspected(Inspector::Asked))),
    ("a_squid_that_inspects_unasked", || Box::pin(inspected(Inspector::Unasked))),
    ("over_ipv6_by_name", || Box::pin(over_ipv6_by_name())),
    ("over_ipv6_by_address", || Box::pin(over_ipv6_by_address())),
    ("names_too_long_for_a_datagram", || Box::pin(names_too_long_for_a_datagram())),
];

async fn the_list_is_enough() -> Outcome {
    let world = World::make("list").await;
    world.config("").await;
    world.enclose();
    let daemon = world.daemon().await;
    world.deliver(100).await;
    world.assert_confined();
    drop(daemon);
    // The counter is one that counts.
    world.net.try_connection(EVIL, 443);
    world.net.try_connection(GATEWAY, 80);
    let counted = world.net.refused();
    assert!(counted >= 2, "{counted} packets were counted");
    assert_eq!(world.evil_callers(), 0);
    Ok(format!(
        "100 messages, 0 packets beside the list; {counted} when two connections were tried on purpose"
    ))
}

async fn a_redirect_leads_nowhere() -> Outcome {
    let world = World::make("redirect").await;
    world.config("").await;
    world.enclose();
    let mut tried = 0;
    for location in
        ["https://evil.test/steal", "https://10.77.0.66/steal", "//10.77.0.66/", "https://0x0a4d0042/"]
    {
        for status in [301, 302, 307, 308] {
            let act = json!({"answer": {"status": status, "headers": {"Location": location}, "body": ""}});
            world.outbox.sim.script(&json!([{"do": act, "times": 1}])).await;
            let daemon = world.daemon().await;
            let (id, _) = world.outbox.queue(1).await;
            eventually(LIMIT, "the redirect was met", async || {
                let row = world.outbox.row(id).await;
                if row.error_code.is_some() { Ok(()) } else { Err(row) }
            })
            .await;
            drop(daemon);
            world.outbox.run("DELETE FROM sms.outbox; DELETE FROM outboxd.gateway").await;
            tried += 1;
        }
    }
    world.assert_confined();
    assert_eq!(world.names.asked("evil.test"), 0, "nobody is asked where it is");
    Ok(format!("{tried} redirects to a stranger, 0 packets beside the list"))
}

async fn a_rebinding_resolver_leads_nowhere() -> Outcome {
    let world = World::make("rebinding").await;
    world.config(&format!("breaker_failures = 1000\nallowed_addresses = [\"{GATEWAY}/32\"]")).await;
    world.enclose();
    world.names.lead("gw.test", &[EVIL]);
    let daemon = world.daemon().await;
    world.outbox.queue(20).await;
    daemon.until_logged("outside allowed_addresses").await;
    assert_eq!(world.gateway_callers(), 0);
    world.assert_confined();
    // Right and wrong in turn, as such resolvers do to get past whoever looks only once.
    world.names.lead("gw.test", &[GATEWAY, EVIL]);
    world.until_all_accepted().await;
    let asked = world.names.asked("gw.test");
    world.deliver(20).await;
    world.assert_confined();
    Ok(format!("40 messages past a name server that lied half of {asked} times, 0 packets beside the list"))
}

async fn without_ranges_the_firewall_holds() -> Outcome {
    let world = World::make("firewall").await;
    world.config("").await;
    world.enclose();
    world.names.lead("gw.test", &[EVIL]);
    let daemon = world.daemon().await;
    world.outbox.queue(1).await;
    eventually(LIMIT, "the firewall refused something", async || match world.net.refused() {
        0 => Err(daemon.log()),
        _ => Ok(()),
    })
    .await;
    assert_eq!((world.evil_callers(), world.gateway_callers()), (0, 0));
    let counted = world.net.refused();
    world.names.lead("gw.test", &[GATEWAY]);
    world.until_all_accepted().await;
    Ok(format!("a name that was led elsewhere was tried, {counted} packets refused, none arrived"))
}

async fn through_squid() -> Outcome {
    installed("squid")?;
    let world = World::make("squid").await;
    let _squid = squid(world.directory.path(), "gw.test").await;
    let proxy = |password: &str| format!("proxy = \"http://{PROXY_USER}:{password}@{SQUID}:{SQUID_PORT}\"");
    world.config(&proxy(PROXY_PASSWORD)).await;
    world.enclose();
    let before = world.names.asked("gw.test");
    let daemon = world.daemon().await;
    world.deliver(50).await;
    drop(daemon);
    world.assert_confined();
    let (code, said) = world.check();
    assert!(code == 0 && said.contains("log-in works"), "{code}\n{said}");
    world.config(&proxy("wrong")).await;
    let (code, said) = world.check();
    assert!(code == 78 && said.contains("407") && !said.contains("wrong@"), "{code}\n{said}");
    world.config(&proxy(PROXY_PASSWORD)).await;
    world.aim_at("evil.test");
    let (code, said) = world.check();
    assert!(
        code == 69 && said.contains("its rules do not let us connect to evil.test:443"),
        "{code}\n{said}"
    );
    world.assert_confined();
    let names = world.names.asked("gw.test") - before;
    Ok(format!(
        "50 messages, 0 packets beside the list, the name asked for {names} times; a wrong password and a \
         refused host are told"
    ))
}

async fn through_dante() -> Outcome {
    installed("danted")?;
    let world = World::make("dante").await;
    let _dante = dante(world.directory.path()).await;
    for scheme in ["socks5h", "socks5"] {
        let proxy =
            |password: &str| format!("proxy = \"{scheme}://{PROXY_USER}:{password}@{DANTE}:{DANTE_PORT}\"");
        world.config(&proxy(PROXY_PASSWORD)).await;
        world.enclose();
        let daemon = world.daemon().await;
        world.deliver(50).await;
        drop(daemon);
        world.assert_confined();
        world.config(&proxy("wrong")).await;
        let (code, said) = world.check();
        assert!(
            code == 78 && said.contains("user and password") && !said.contains("wrong@"),
            "{code}\n{said}"
        );
        world.config(&proxy(PROXY_PASSWORD)).await;
        world.aim_at("evil.test");
        let (code, said) = world.check();
        assert!(code == 69 && said.contains("the proxy"), "{code}\n{said}");
        world.assert_confined();
    }
    Ok("100 messages, by its lookups and by ours, 0 packets beside the list; a wrong password and a refused host are told"
        .to_owned())
}

/// A real squid that opens TLS with an authority of its own, in place of the gateway's.
async fn inspected(how: Inspector) -> Outcome {
    installed("squid")?;
    let world = World::make("inspected").await;
    let directory = world.directory.path();
    let authority = Authority::make(directory, "inspector", "Trial Site Inspection");
    let _inspector = inspector(directory, &authority, how).await?;
    let proxy = match how {
        Inspector::Asked => format!("proxy = \"http://{SQUID}:{SQUID_PORT}\""),
        Inspector::Unasked => String::new(),
    };
    world.config(&proxy).await;
    world.enclose();
    let (code, said) = world.check();
    assert!(
        code == 69 && said.contains("inspects TLS") && said.contains("Trial Site Inspection"),
        "{code}\n{said}"
    );
    assert_eq!(world.outbox.sim.state().await["requests"].as_u64().unwrap_or(0), 0, "nothing is told to it");
    world.config(&format!("{proxy}\nca_file = \"inspector.crt\"")).await;
    let (code, said) = world.check();
    assert!(code == 0 && said.contains("log-in works"), "{code}\n{said}");
    let daemon = world.daemon().await;
    world.deliver(20).await;
    drop(daemon);
    world.assert_confined();
    Ok("its authority is told and gets nothing; named in ca_file, 20 messages, 0 packets beside the list"
        .to_owned())
}

async fn over_ipv6_by_name() -> Outcome {
    let world = World::make("six").await;
    world.names.lead("db.test", &[DATABASE6]);
    world.names.lead("gw.test", &[GATEWAY6]);
    world.names.lead("evil.test", &[EVIL6]);
    ask_at(NAMES6.into());
    world.config("").await;
    over_ipv6(&world).await
}

async fn over_ipv6_by_address() -> Outcome {
    let mut world = World::make("literal").await;
    let authority = Authority::make(world.directory.path(), "sixth", "Trial of Literals");
    let (certificate, key) = authority.sign(&format!("IP:{GATEWAY6}"));
    world.answer_as(&certificate, &key).await;
    world.config("ca_file = \"sixth.crt\"").await;
    world.aim_at(&format!("[{GATEWAY6}]"));
    world.database_at(&DATABASE6.to_string());
    let seen = over_ipv6(&world).await?;
    assert_eq!(world.names.asked("gw.test") + world.names.asked("db.test"), 0, "nothing is looked up");
    Ok(seen)
}

async fn over_ipv6(world: &World) -> Outcome {
    world.enclose();
    let (code, said) = world.check();
    assert!(code == 0 && said.contains("log-in works"), "{code}\n{said}");
    let daemon = world.daemon().await;
    world.deliver(50).await;
    world.assert_confined();
    drop(daemon);
    world.net.try_connection(EVIL6, 443);
    world.net.try_connection(GATEWAY6, 80);
    // The other family is shut as well: nothing of it is on this list.
    world.net.try_connection(GATEWAY, 443);
    let counted = world.net.refused();
    assert!(counted >= 3, "{counted} packets were counted");
    assert_eq!(world.evil_callers(), 0);
    Ok(format!(
        "50 messages, 0 packets beside the list; {counted} when three connections were tried on purpose"
    ))
}

async fn names_too_long_for_a_datagram() -> Outcome {
    let world = World::make("truncated").await;
    world.names.truncate();
    world.config("").await;
    world.enclose();
    let before = world.names.asked_over_tcp();
    let (code, said) = world.check();
    assert!(code == 0 && said.contains("log-in works"), "{code}\n{said}");
    let daemon = world.daemon().await;
    world.deliver(50).await;
    drop(daemon);
    let asked = world.names.asked_over_tcp() - before;
    assert!(asked > 0, "names are asked for over TCP");
    world.assert_confined();
    Ok(format!("50 messages, {asked} questions over TCP, 0 packets beside the list"))
}
