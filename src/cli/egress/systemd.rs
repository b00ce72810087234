//! The openings as a drop-in for the daemon's unit. systemd filters by address only, and in both directions: who posts
//! receipts must be let in as well.

use std::collections::BTreeMap;
use std::path::Path;

use crate::cli::egress::openings::Opening;
use crate::cli::egress::shown;
use crate::cli::errors::{Code, Failure};
use crate::config::Config;

pub(super) fn drop_in(config: &Config, openings: &[Opening], path: &Path) -> Result<String, Failure> {
    let mut page = format!(
        "# Whom outboxd.service may exchange packets with, by {}. Made by `outboxd egress --format systemd`;\n\
         # save it as /etc/systemd/system/outboxd.service.d/egress.conf, then run `systemctl daemon-reload` and\n\
         # `systemctl restart outboxd`. Ports are not looked at. Where the kernel lets systemd not filter, as in most\n\
         # containers, the journal says so and nothing is filtered. Hosts without a range of their own are where they were\n\
         # when this was made: make it anew when one moves.\n\
         [Service]\n\
         IPAddressDeny=any\n\
         # the unit's own list would be added to this one\n\
         IPAddressAllow=\n\
         # this host itself\n\
         IPAddressAllow=localhost\n",
        shown(path)
    );
    let mut reasons: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for opening in openings {
        for target in opening.targets() {
            let reason = format!("{}, {}", opening.host, opening.why);
            let known = reasons.entry(target).or_default();
            if !known.contains(&reason) {
                known.push(reason);
            }
        }
    }
    for callers in callers(config)? {
        reasons.entry(callers).or_default().push("may post receipts".to_owned());
    }
    for (target, reasons) in reasons {
        for reason in reasons {
            page.push_str(&format!("# {reason}\n"));
        }
        page.push_str(&format!("IPAddressAllow={target}\n"));
    }
    Ok(page)
}

/// Who connects to the callback listener, where that is not this host.
fn callers(config: &Config) -> Result<Vec<String>, Failure> {
    let Some(callbacks) = &config.callbacks else { return Ok(Vec::new()) };
    if callbacks.listen.ip().is_loopback() {
        return Ok(Vec::new());
    }
    if callbacks.allow_from.is_empty() && callbacks.trusted_proxies.is_empty() {
        let message = "receipts may come from any address, and a list of addresses would shut them out";
        let hint = "set allow_from in [callbacks], or let a reverse proxy on this host pass them on";
        return Err(Failure::new(Code::Config, message).hint(hint));
    }
    Ok(callbacks.allow_from.iter().chain(&callbacks.trusted_proxies).map(ToString::to_string).collect())
}
