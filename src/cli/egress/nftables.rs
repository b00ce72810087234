//! The openings as rules for nftables: what one user's processes may send, and a counter of what they tried beside.

use std::path::Path;

use crate::cli::egress::openings::Opening;
use crate::cli::egress::shown;

const TABLE: &str = "outboxd_egress";

pub(super) fn ruleset(openings: &[Opening], user: &str, path: &Path) -> String {
    let mut page = format!(
        "# What processes of the user {user} may send, by {}. All else that they try is dropped, and counted:\n\
         #   nft list counter inet {TABLE} refused\n\
         # Made by `outboxd egress --format nftables`; load it with `nft -f FILE`. It replaces what was loaded of it\n\
         # before, and leaves other users and other tables alone. Hosts without a range of their own are where they were\n\
         # when this was made: make it anew when one moves.\n\
         table inet {TABLE}\n\
         delete table inet {TABLE}\n\
         table inet {TABLE} {{\n\
         \tcounter refused {{\n\t}}\n\n\
         \tchain output {{\n\
         \t\ttype filter hook output priority 0; policy accept;\n\
         \t\tmeta skuid {} goto daemon\n\
         \t}}\n\n\
         \tchain daemon {{\n\
         \t\t# what belongs to a connection that is open already\n\
         \t\tct state established counter accept\n",
        shown(path),
        quoted(user)
    );
    for opening in openings {
        // A host may have addresses of both families, and a rule is about one.
        let (six, four): (Vec<String>, Vec<String>) =
            opening.targets().into_iter().partition(|target| target.contains(':'));
        page.push_str(&format!("\t\t# {}:{}, {}\n", opening.host, opening.port, opening.why));
        for (family, targets) in [("ip", four), ("ip6", six)] {
            if !targets.is_empty() {
                page.push_str(&format!(
                    "\t\t{family} daddr {{ {} }} {} dport {} counter accept\n",
                    targets.join(", "),
                    opening.protocol,
                    opening.port
                ));
            }
        }
    }
    page.push_str("\t\t# nothing else\n\t\tcounter name \"refused\" drop\n\t}\n}\n");
    page
}

/// A number is a user id; a name may need its quotes.
fn quoted(user: &str) -> String {
    if user.bytes().all(|b| b.is_ascii_digit()) { user.to_owned() } else { format!("\"{user}\"") }
}
