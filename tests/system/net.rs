//! Two networks of our own: the site, where only the daemon is, and the world on the other end of a wire. Both end with the
//! process that made them.

use std::io::Write as _;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::Path;
use std::process::{Child, Command, Stdio};

/// Who the daemon is in the site. Nobody else has this number.
pub(crate) const USER: &str = "51507";

pub(crate) const DATABASE: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 1);
pub(crate) const NAMES: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 2);
pub(crate) const GATEWAY: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 20);
pub(crate) const SQUID: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 30);
pub(crate) const DANTE: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 40);
/// Where nothing of the daemon's must ever come.
pub(crate) const EVIL: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 66);

pub(crate) const DATABASE6: Ipv6Addr = in_world6(1);
pub(crate) const NAMES6: Ipv6Addr = in_world6(2);
pub(crate) const GATEWAY6: Ipv6Addr = in_world6(0x20);
pub(crate) const EVIL6: Ipv6Addr = in_world6(0x66);

const fn in_world6(host: u16) -> Ipv6Addr {
    Ipv6Addr::new(0xfd77, 0, 0, 0, 0, 0, 0, host)
}

/// The site's network. Its holder is a process that does nothing.
#[derive(Debug)]
pub(crate) struct Site {
    holder: Child,
}

impl Site {
    /// We are in the world already, in namespaces of our own.
    pub(crate) fn make() -> Site {
        let mut holder = Command::new("unshare");
        // It says so when it is in its network, and ends when we do.
        holder.args(["--net", "sh", "-c", "echo there; exec sleep infinity"]).stdout(Stdio::piped());
        let mut holder = Command::new("setpriv")
            .args(["--pdeathsig", "KILL", "unshare"])
            .args(holder.get_args())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut line = String::new();
        std::io::BufRead::read_line(&mut std::io::BufReader::new(holder.stdout.take().unwrap()), &mut line)
            .unwrap();
        assert_eq!(line.trim(), "there");
        let pid = holder.id().to_string();
        ip(&["link", "add", "world0", "type", "veth", "peer", "name", "site0", "netns", &pid]);
        for address in [DATABASE, NAMES, GATEWAY, SQUID, DANTE, EVIL] {
            ip(&["address", "add", &format!("{address}/24"), "dev", "world0"]);
        }
        for address in [DATABASE6, NAMES6, GATEWAY6, EVIL6] {
            ip(&["address", "add", &format!("{address}/64"), "dev", "world0", "nodad"]);
        }
        ip(&["link", "set", "world0", "up"]);
        let site = Site { holder };
        for arguments in [
            vec!["address", "add", "10.77.0.100/24", "dev", "site0"],
            vec!["address", "add", "fd77::100/64", "dev", "site0", "nodad"],
            vec!["link", "set", "lo", "up"],
            vec!["link", "set", "site0", "up"],
        ] {
            succeed(site.command("ip").args(&arguments));
        }
        site
    }

    /// A program in the site, as root.
    pub(crate) fn command(&self, program: &str) -> Command {
        let mut command = Command::new("nsenter");
        command.arg(format!("--net=/proc/{}/ns/net", self.holder.id())).arg("--").arg(program);
        command
    }

    /// A program in the site, as the daemon's user. It dies with the thread that starts it.
    pub(crate) fn as_daemon(&self, program: &Path) -> Command {
        let mut command = self.command("setpriv");
        command
            .args([
                "--reuid",
                USER,
                "--regid",
                USER,
                "--clear-groups",
                "--no-new-privs",
                "--pdeathsig",
                "KILL",
            ])
            .arg(program);
        command
    }

    /// Loads rules as they were printed.
    pub(crate) fn load(&self, rules: &str) {
        let mut nft = self.command("nft").args(["-f", "-"]).stdin(Stdio::piped()).spawn().unwrap();
        nft.stdin.take().unwrap().write_all(rules.as_bytes()).unwrap();
        assert!(nft.wait().unwrap().success(), "nft refused:\n{rules}");
    }

    /// Packets that the daemon's user tried to send beside the list.
    pub(crate) fn refused(&self) -> u64 {
        let counter = ["list", "counter", "inet", "outboxd_egress", "refused"];
        let said = succeed(self.command("nft").args(counter));
        let packets = said.split("packets ").nth(1).and_then(|rest| rest.split(' ').next());
        packets.expect("a counter of packets").parse().unwrap()
    }

    /// Tries as the daemon's user to open a connection; whether that was let through is not asked here.
    pub(crate) fn try_connection(&self, to: impl Into<IpAddr>, port: u16) {
        let to = to.into();
        let script = format!("timeout 1 bash -c ': >/dev/tcp/{to}/{port}' 2>/dev/null; true");
        succeed(self.as_daemon(Path::new("sh")).args(["-c", &script]));
    }
}

impl Drop for Site {
    fn drop(&mut self) {
        let _ = self.holder.kill();
        let _ = self.holder.wait();
    }
}

fn ip(arguments: &[&str]) {
    succeed(Command::new("ip").args(arguments));
}

/// Runs a command to its end and returns what it printed.
pub(crate) fn succeed(command: &mut Command) -> String {
    let output = command.stdin(Stdio::null()).output().unwrap_or_else(|error| panic!("{command:?}: {error}"));
    assert!(
        output.status.success(),
        "{command:?}: {}\n{}",
        output.status,
        String::from_utf8_lossy(&output.stderr)
    );
    String::from_utf8(output.stdout).unwrap()
}
