//! Rulesets as people have them, made by the real programs in a network namespace.

use std::process::Command;

use super::*;

/// In a network namespace of its own.
fn in_namespace(body: fn()) {
    let run = move || {
        nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNET).expect("root");
        body();
    };
    if let Err(panic) = std::thread::spawn(run).join() {
        std::panic::resume_unwind(panic);
    }
}

fn run(command: &str) {
    let mut words = command.split(' ');
    let program = words.next().expect("a program");
    let status = Command::new(program).args(words).status().expect(program);
    assert!(status.success(), "{command}");
}

fn found() -> Vec<String> {
    again(&mut Ruleset::default())
}

fn again(nftables: &mut Ruleset) -> Vec<String> {
    let closed = closed_inputs(nftables).into_iter();
    closed.map(|closed| closed.what).collect()
}

#[test]
fn rules_are_read_again_when_they_have_changed() {
    in_namespace(|| {
        let mut ruleset = Ruleset::default();
        assert_eq!(again(&mut ruleset), [""; 0]);
        run("nft add table inet f");
        run("nft add chain inet f in { type filter hook input priority 0 ; policy drop ; }");
        for _ in 0..2 {
            assert_eq!(again(&mut ruleset), ["chain in of table inet f"]);
        }
        run("nft add rule inet f in accept");
        assert_eq!(again(&mut ruleset), [""; 0]);
        run("nft flush chain inet f in");
        assert_eq!(again(&mut ruleset), ["chain in of table inet f"]);
        run("nft delete table inet f");
        assert_eq!(again(&mut ruleset), [""; 0]);
    });
}

#[test]
fn a_firewall_that_drops_by_default_is_found_until_it_knows_the_mark() {
    in_namespace(|| {
        assert_eq!(found(), [""; 0]);
        run("nft add table inet f");
        run("nft add chain inet f in { type filter hook input priority 0 ; policy drop ; }");
        run("nft add chain inet f out { type filter hook output priority 0 ; policy drop ; }");
        run("nft add rule inet f in ct state established accept");
        assert_eq!(found(), ["chain in of table inet f"]);
        let notes = firewall_notes();
        assert_eq!(notes.len(), 1, "one, of both families");
        assert_eq!(notes[0].concerns, Concern::STEERED);
        assert!(
            notes[0]
                .message
                .contains("INPUT -m mark --mark 0x200/0xf00")
        );
        run("nft add rule inet f in meta mark & 0xf00 == 0x200 accept");
        assert_eq!(found(), [""; 0]);
        run("nft delete table inet f");
        for (program, what) in [
            ("iptables-nft", "chain INPUT of table ip filter"),
            ("ip6tables-nft", "chain INPUT of table ip6 filter"),
            ("iptables-legacy", "chain INPUT of iptables-legacy"),
            ("ip6tables-legacy", "chain INPUT of ip6tables-legacy"),
        ] {
            run(&format!("{program} -A INPUT -i lo -j ACCEPT"));
            assert_eq!(found(), [""; 0], "{program}: its policy is to accept");
            run(&format!("{program} -P INPUT DROP"));
            assert_eq!(found(), [what]);
            run(&format!(
                "{program} -I INPUT -m mark --mark 0x200/0xf00 -j ACCEPT"
            ));
            assert_eq!(found(), [""; 0], "{program}: it knows them");
            run(&format!("{program} -P INPUT ACCEPT"));
        }
    });
}

/// A ruleset, and the chains of it that drop.
#[test]
fn what_becomes_of_our_mark_is_followed_through_rules_of_nftables() {
    const INPUT: &str = "type filter hook input priority 0; policy";
    const IN: &str = "chain in of table inet f";
    in_namespace(|| {
        for (table, wanted) in [
            // A table that is switched off drops nothing.
            (
                &format!("flags dormant; chain in {{ {INPUT} drop; }}"),
                &[][..],
            ),
            // Writing the mark is not knowing it.
            (
                &format!("chain in {{ {INPUT} drop; tcp dport 22 meta mark set 0x1; }}"),
                &[IN],
            ),
            (
                &format!("chain in {{ {INPUT} drop; ct mark set mark; }}"),
                &[IN],
            ),
            // Nor are other marks.
            (
                &format!("chain in {{ {INPUT} drop; meta mark 0x1 accept; }}"),
                &[IN],
            ),
            (
                &format!("chain in {{ {INPUT} drop; meta mark != 0x1 accept; }}"),
                &[],
            ),
            (
                &format!("chain in {{ {INPUT} drop; meta mark 0x200 accept; }}"),
                &[],
            ),
            (
                &format!("chain in {{ {INPUT} drop; meta mark & 0x800 == 0 accept; }}"),
                &[],
            ),
            (
                &format!("chain in {{ {INPUT} drop; meta mark {{ 1, 0x200 }} accept; }}"),
                &[],
            ),
            (
                &format!("chain in {{ {INPUT} drop; meta mark vmap {{ 0x200 : accept }}; }}"),
                &[],
            ),
            (
                &format!("chain in {{ {INPUT} drop; meta mark 0x100-0x2ff accept; }}"),
                &[],
            ),
            (
                &format!("chain in {{ {INPUT} accept; meta mark & 0xf00 == 0x200 drop; }}"),
                &[IN],
            ),
            // A mark that was written over before is ours no more.
            (
                &format!(
                    "chain in {{ {INPUT} drop; meta mark set ct mark; meta mark 0x200 accept; }}"
                ),
                &[IN],
            ),
            (
                &format!(
                    "chain in {{ {INPUT} drop; meta mark set 0x200; meta mark 0x200 accept; }}"
                ),
                &[],
            ),
            // What is dropped at the end of a chain that accepts; some of it.
            (
                &format!("chain in {{ {INPUT} accept; ct state new counter drop; }}"),
                &[],
            ),
            (
                &format!("chain in {{ {INPUT} accept; iif lo accept; counter reject; }}"),
                &[IN],
            ),
            (
                &format!(
                    "chain in {{ {INPUT} drop; ct state vmap {{ established : accept, invalid : drop }}; }}"
                ),
                &[IN],
            ),
            // By other chains.
            (
                &format!(
                    "chain x {{ iif lo return; drop; }} chain in {{ {INPUT} accept; jump x; }}"
                ),
                &["chain in of table inet f (in chain x)"],
            ),
            (
                &format!(
                    "chain x {{ tcp dport 22 accept; }} chain in {{ {INPUT} drop; jump x; accept; }}"
                ),
                &[],
            ),
            (
                &format!(
                    "chain x {{ iif lo accept; }} chain in {{ {INPUT} drop; goto x; accept; }}"
                ),
                &[IN],
            ),
            (
                &format!(
                    "chain x {{ meta mark and 0xf00 == 0x200 accept; drop; }} chain in {{ {INPUT} drop; jump x; }}"
                ),
                &[],
            ),
            // Of one family.
            (
                &format!("chain in {{ {INPUT} drop; meta nfproto ipv4 accept; }}"),
                &[IN],
            ),
            // What is for no address of this node.
            (
                &format!("chain in {{ {INPUT} accept; fib daddr type != local drop; }}"),
                &[IN],
            ),
            (
                &format!(
                    "chain in {{ {INPUT} accept; fib daddr . iif type != {{ local, broadcast, multicast }} drop; }}"
                ),
                &[IN],
            ),
        ] {
            run_nft(&format!("table inet f {{; {table}; }}"));
            assert_eq!(found(), wanted, "{table}");
            run("nft delete table inet f");
        }
        run_nft(&format!(
            "table inet f {{; chain in {{ {INPUT} drop; meta nfproto ipv4 accept; }}; }}"
        ));
        assert_eq!(firewall_notes()[0].concerns, Concern::steered(Family::Ipv6));
    });
}

/// In one line, or in as many as nft wants.
fn run_nft(ruleset: &str) {
    let lines = ruleset.replace("; ", "\n").replace("} chain", "}\nchain");
    let status = Command::new("nft").arg(lines).status().expect("nft");
    assert!(status.success(), "{ruleset}");
}

#[test]
fn what_becomes_of_our_mark_is_followed_through_rules_of_iptables() {
    in_namespace(|| {
        for program in [
            "iptables-nft",
            "ip6tables-nft",
            "iptables-legacy",
            "ip6tables-legacy",
        ] {
            let (family, is_nft) = match program {
                "iptables-nft" => ("ip", true),
                "ip6tables-nft" => ("ip6", true),
                _ => ("", false),
            };
            let of = |table: &str| match (is_nft, table) {
                (true, table) => format!("of table {family} {table}"),
                (false, "filter") => format!("of {program}"),
                (false, table) => format!("of {program} -t {table}"),
            };
            let input = vec![format!("chain INPUT {}", of("filter"))];
            let in_chain = vec![format!("chain INPUT {} (in chain not-local)", of("filter"))];
            let mangled = vec![format!("chain INPUT {}", of("mangle"))];
            let none = Vec::new();
            let rules: [(&[&str], &Vec<String>); 10] = [
                (&["-A INPUT -i lo -j ACCEPT", "-A INPUT -j DROP"], &input),
                (&["-A INPUT -i lo -j ACCEPT", "-A INPUT -j REJECT"], &input),
                (&["-A INPUT -p tcp -j DROP"], &none),
                // As ufw has it.
                (
                    &[
                        "-N not-local",
                        "-A not-local -m addrtype --dst-type LOCAL -j RETURN",
                        "-A not-local -m limit --limit 3/min -j LOG",
                        "-A not-local -j DROP",
                        "-A INPUT -m comment --comment ufw -j not-local",
                        "-A INPUT -j ACCEPT",
                    ],
                    &in_chain,
                ),
                (
                    &[
                        "-N x",
                        "-A x -i lo -j ACCEPT",
                        "-A INPUT -g x",
                        "-A INPUT -j DROP",
                    ],
                    &none,
                ),
                (
                    &["-A INPUT -j MARK --set-mark 0x1", "-P INPUT DROP"],
                    &input,
                ),
                (
                    &["-A INPUT -m mark --mark 0x1 -j ACCEPT", "-P INPUT DROP"],
                    &input,
                ),
                (
                    &["-A INPUT -m mark ! --mark 0x1 -j ACCEPT", "-P INPUT DROP"],
                    &none,
                ),
                (&["-A INPUT -j RETURN", "-P INPUT DROP"], &input),
                (&["-t mangle -A INPUT -j DROP"], &mangled),
            ];
            for (rules, wanted) in rules {
                for rule in rules {
                    run(&format!("{program} {rule}"));
                }
                assert_eq!(&found(), wanted, "{program}: {rules:?}");
                for table in ["filter", "mangle"] {
                    run(&format!("{program} -t {table} -F"));
                    run(&format!("{program} -t {table} -X"));
                }
                run(&format!("{program} -P INPUT ACCEPT"));
            }
        }
    });
}

#[test]
fn what_may_decide_otherwise_is_not_claimed() {
    use ruleset::{Fate, Step, Table};
    let decides = |step: Step| {
        let rules = vec![vec![step], vec![Step::Drop]];
        let table = Table([("in".to_owned(), rules)].into());
        table.fate("in", true, Family::Ipv4)
    };
    assert_eq!(decides(Step::Undecided), Fate::Undecided);
    // A chain that jumps to itself, which no kernel takes.
    assert_eq!(decides(Step::Jump("in".to_owned())), Fate::Undecided);
    assert_eq!(
        decides(Step::Jump("gone".to_owned())),
        Fate::Dropped("in".to_owned())
    );
}
