//! The policy as a whole: tables of decisions.

use std::net::IpAddr;

use super::*;

fn policy(profile: Profile, rules: &[&str]) -> Policy {
    let rules = rules.iter().map(|rule| rule.parse().unwrap()).collect();
    let mut policy = Policy::new(profile, rules);
    policy.host_addresses = vec!["8.8.4.4".parse().unwrap(), "2606::1".parse().unwrap()];
    policy
}

fn decide(policy: &Policy, address: &str, port: u16, names: &[&str]) -> Decision {
    let names: Vec<Name> = names.iter().map(|name| name.parse().unwrap()).collect();
    policy.decide(&Query {
        protocol: Protocol::Tcp,
        address: address.parse().unwrap(),
        port,
        is_host: false,
        is_own: false,
        names: &names,
    })
}

fn allows(policy: &Policy, address: &str) -> bool {
    matches!(decide(policy, address, 80, &[]), Decision::Allow { .. })
}

/// The last address of a network.
fn last(network: &str) -> IpAddr {
    let (address, bits) = network.split_once('/').unwrap();
    let bits: u32 = bits.parse().unwrap();
    match address.parse().unwrap() {
        IpAddr::V4(address) => {
            let rest = u32::MAX.checked_shr(bits).unwrap_or(0);
            std::net::Ipv4Addr::from_bits(address.to_bits() | rest).into()
        }
        IpAddr::V6(address) => {
            let rest = u128::MAX.checked_shr(bits).unwrap_or(0);
            std::net::Ipv6Addr::from_bits(address.to_bits() | rest).into()
        }
    }
}

#[test]
fn public_denies_each_line_of_the_table_from_its_first_to_its_last_address() {
    let policy = policy(Profile::Public, &[]);
    for line in RESERVED {
        let first = line.network.split('/').next().unwrap().to_owned();
        for address in [first, last(line.network).to_string()] {
            let Decision::Deny(denial) = decide(&policy, &address, 80, &[]) else {
                panic!("{address} of {} is allowed", line.network);
            };
            assert!(matches!(denial.reason, Reason::Reserved(_)), "{address}");
            // The rule of the denial allows it.
            let rule = Rule::allow(&denial.allow).unwrap();
            let lifted = Policy::new(Profile::Public, vec![rule]);
            assert!(allows(&lifted, &address), "{}", denial.allow);
        }
    }
}

#[test]
fn the_document_has_each_line_of_the_table() {
    let document = include_str!("../../../../docs/network.md");
    for line in RESERVED {
        let under_all = if line.always { "denied" } else { "allowed" };
        let row = format!("| `{}` | {} | {under_all} |", line.network, line.name);
        assert!(document.contains(&row), "{row}");
    }
}

#[test]
fn public_allows_public_addresses() {
    let policy = policy(Profile::Public, &[]);
    for address in [
        "1.1.1.1",
        "9.255.255.255",
        "11.0.0.0",
        "100.63.255.255",
        "100.128.0.0",
        "126.255.255.255",
        "128.0.0.0",
        "169.253.255.255",
        "172.15.255.255",
        "172.32.0.0",
        "192.0.1.0",
        "198.17.255.255",
        "198.20.0.0",
        "223.255.255.255",
        "2606:4700::1111",
        "2001:4860::8888",
    ] {
        assert!(allows(&policy, address), "{address}");
    }
}

#[test]
fn the_hosts_own_addresses_are_denied_in_every_profile() {
    for profile in [Profile::Public, Profile::None, Profile::All] {
        let policy = policy(profile, &["allow *:81"]);
        for address in ["8.8.4.4", "2606::1"] {
            let Decision::Deny(denial) = decide(&policy, address, 80, &[]) else {
                panic!("{address}");
            };
            assert_eq!(denial.reason, Reason::Host);
            assert!(matches!(
                decide(&policy, address, 81, &[]),
                Decision::Deny(_)
            ));
        }
    }
}

#[test]
fn none_denies_all_and_all_allows_private_networks_but_not_the_host() {
    let none = policy(Profile::None, &[]);
    assert!(!allows(&none, "1.1.1.1"));
    let all = policy(Profile::All, &[]);
    for address in ["10.0.0.1", "192.168.1.1", "169.254.169.254", "fd00::1"] {
        assert!(allows(&all, address), "{address}");
    }
    for address in [
        "127.0.0.1",
        "::1",
        "::ffff:10.0.0.1",
        "224.0.0.1",
        "0.0.0.1",
    ] {
        assert!(!allows(&all, address), "{address}");
    }
}

#[test]
fn the_first_rule_that_matches_wins() {
    let policy = policy(
        Profile::Public,
        &[
            "allow 10.1.0.0/16:22",
            "deny 10.1.0.0/16",
            "allow 10.0.0.0/8",
            "deny *:25",
        ],
    );
    let allows = |address: &str, port| {
        matches!(
            decide(&policy, address, port, &[]),
            Decision::Allow { by_name: false }
        )
    };
    assert!(allows("10.1.2.3", 22));
    assert!(!allows("10.1.2.3", 23));
    assert!(allows("10.2.2.3", 25));
    assert!(!allows("1.1.1.1", 25));
    assert!(allows("1.1.1.1", 26));
    assert!(!allows("192.168.0.1", 26));
}

#[test]
fn a_rule_for_every_address_opens_neither_loopback_nor_the_host() {
    let policy = policy(Profile::None, &["allow *"]);
    assert!(allows(&policy, "10.0.0.1"));
    assert!(!allows(&policy, "127.0.0.1"));
    let host = Query {
        protocol: Protocol::Tcp,
        address: "10.0.2.2".parse().unwrap(),
        port: 80,
        is_host: true,
        is_own: false,
        names: &[],
    };
    let Decision::Deny(denial) = policy.decide(&host) else {
        panic!("The host is open");
    };
    assert_eq!(denial.allow, "host:80/tcp");
}

#[test]
fn the_target_public_leaves_out_what_the_profile_public_denies() {
    let policy = policy(Profile::None, &["allow public:80"]);
    assert!(allows(&policy, "1.1.1.1"));
    assert!(!allows(&policy, "10.0.0.1"));
    assert!(!allows(&policy, "8.8.4.4"));
}

#[test]
fn the_host_is_open_on_the_ports_of_its_rule_only() {
    let policy = policy(Profile::Public, &["allow host:5432"]);
    for (port, open) in [(5432, true), (5433, false)] {
        let query = Query {
            protocol: Protocol::Tcp,
            address: "10.0.2.2".parse().unwrap(),
            port,
            is_host: true,
            is_own: false,
            names: &[],
        };
        let decision = policy.decide(&query);
        assert_eq!(matches!(decision, Decision::Allow { .. }), open);
    }
}

#[test]
fn a_name_opens_the_addresses_that_were_given_for_it() {
    let policy = policy(Profile::None, &["allow *.example.com:443"]);
    let allow = Decision::Allow { by_name: true };
    assert_eq!(decide(&policy, "1.2.3.4", 443, &["a.example.com"]), allow);
    assert_ne!(decide(&policy, "1.2.3.4", 80, &["a.example.com"]), allow);
    assert_ne!(decide(&policy, "1.2.3.4", 443, &["example.org"]), allow);
    assert_ne!(decide(&policy, "1.2.3.4", 443, &[]), allow);
    let Decision::Deny(denial) = decide(&policy, "1.2.3.4", 80, &["a.example.com"]) else {
        panic!("Another port is open");
    };
    assert_eq!(denial.allow, "a.example.com:80/tcp");
}

#[test]
fn names_are_looked_up_only_where_a_rule_or_the_profile_allows_it() {
    let name = |text: &str| text.parse::<Name>().unwrap();
    let allowed = |policy: &Policy, text: &str| {
        matches!(
            policy.decide_lookup(Some(&name(text))),
            Decision::Allow { .. }
        )
    };
    let none = policy(Profile::None, &["allow example.com:443"]);
    assert!(allowed(&none, "example.com"));
    assert!(!allowed(&none, "secret.attacker.org"));
    let public = policy(
        Profile::Public,
        &["deny *.bad.org", "deny good.org:25", "allow *"],
    );
    assert!(!allowed(&public, "a.bad.org"));
    assert!(allowed(&public, "good.org"));
    assert!(public.denies_names());
}

#[test]
fn private_answers_are_refused_unless_a_network_rule_allows_them() {
    let public = policy(Profile::Public, &["allow 10.1.0.0/16:80"]);
    for (address, refused) in [
        ("127.0.0.1", true),
        ("10.0.0.1", true),
        ("10.1.0.1", false),
        ("169.254.169.254", true),
        ("::ffff:10.0.0.1", true),
        ("fd00:ec2::254", true),
        ("64:ff9b::a00:1", true),
        ("8.8.4.4", true),
        ("1.1.1.1", false),
    ] {
        assert_eq!(
            public.is_private_answer(address.parse().unwrap()),
            refused,
            "{address}"
        );
    }
    let ordered = policy(Profile::Public, &["deny 10.1.2.0/24", "allow 10.1.0.0/16"]);
    assert!(ordered.is_private_answer("10.1.2.1".parse().unwrap()));
    assert!(!ordered.is_private_answer("10.1.3.1".parse().unwrap()));
    let all = policy(Profile::All, &[]);
    assert!(!all.is_private_answer("10.0.0.1".parse().unwrap()));
    assert!(all.is_private_answer("127.0.0.1".parse().unwrap()));
}

/// A decision about the host's loopback, which the guest knows by `names`.
fn decide_host(policy: &Policy, names: &[&str]) -> Decision {
    let names: Vec<Name> = names.iter().map(|name| name.parse().unwrap()).collect();
    policy.decide(&Query {
        protocol: Protocol::Tcp,
        address: "203.0.114.2".parse().unwrap(),
        port: 5432,
        is_host: true,
        is_own: false,
        names: &names,
    })
}

#[test]
fn a_rule_that_allows_a_name_does_not_open_the_host_and_one_that_denies_it_closes_it() {
    let name = crate::config::HOST_NAME;
    for rule in ["allow *.internal", "allow *.coffer.internal:5432"] {
        let policy = policy(Profile::All, &[rule]);
        let Decision::Deny(denial) = decide_host(&policy, &[name]) else {
            panic!("`{rule}` opens the host");
        };
        assert_eq!(denial.reason, Reason::Host);
        assert_eq!(denial.allow, "host:5432/tcp");
    }
    let open = policy(Profile::Public, &["allow host:5432"]);
    assert!(matches!(
        decide_host(&open, &[name]),
        Decision::Allow { .. }
    ));
    let closed = policy(Profile::Public, &["deny *.internal", "allow host:5432"]);
    assert!(matches!(decide_host(&closed, &[name]), Decision::Deny(_)));
}

#[test]
fn a_rule_that_allows_a_name_opens_no_private_address() {
    let rules = [
        "allow *.example.com",
        "deny 10.1.2.0/24",
        "allow 10.1.0.0/16:5432",
    ];
    for profile in [Profile::None, Profile::Public] {
        let policy = policy(profile, &rules);
        let decide = |address, port| decide(&policy, address, port, &["db.example.com"]);
        assert_eq!(decide("10.1.0.9", 5432), Decision::Allow { by_name: false });
        let Decision::Deny(denial) = decide("10.1.0.9", 22) else {
            panic!("the name opens another port");
        };
        // Not the name: a rule on it would change nothing.
        assert_eq!(denial.allow, "10.1.0.9:22/tcp");
        assert!(matches!(decide("10.1.2.9", 5432), Decision::Deny(_)));
        assert!(matches!(decide("8.8.4.4", 443), Decision::Deny(_)));
        assert_eq!(decide("1.2.3.4", 22), Decision::Allow { by_name: true });
    }
    let all = policy(Profile::All, &rules);
    let allowed = decide(&all, "192.168.1.1", 22, &["db.example.com"]);
    assert_eq!(allowed, Decision::Allow { by_name: true });
    assert!(matches!(
        decide(&all, "127.0.0.1", 22, &["db.example.com"]),
        Decision::Deny(_)
    ));
}

#[test]
fn an_address_that_the_host_has_by_now_is_the_host() {
    for (rule, open) in [
        ("allow *", false),
        ("allow public", false),
        ("allow a.org", false),
        ("allow 1.2.3.0/24", true),
    ] {
        let policy = policy(Profile::All, &[rule]);
        let decision = policy.decide(&Query {
            protocol: Protocol::Tcp,
            address: "1.2.3.4".parse().unwrap(),
            port: 80,
            is_host: false,
            is_own: true,
            names: &["a.org".parse().unwrap()],
        });
        match decision {
            Decision::Allow { .. } => assert!(open, "{rule}"),
            Decision::Deny(denial) => {
                assert_eq!((denial.reason, open), (Reason::Host, false), "{rule}");
                assert_eq!(denial.allow, "1.2.3.4:80/tcp");
            }
        }
    }
}

#[test]
fn a_denial_of_everything_denies_the_names_that_no_earlier_rule_allows() {
    for (rules, looked_up, other) in [
        (&["allow host:5432", "deny *"][..], false, false),
        (&["allow good.org:443", "deny *"], true, false),
        (&["deny *", "allow good.org"], false, false),
        (&["allow *:443", "deny *"], true, true),
        (&["allow public:443", "deny *"], true, true),
        (&["deny *:25"], true, true),
        (&["deny */udp"], true, true),
        (&["deny good.org", "allow *.org", "deny *"], false, false),
    ] {
        let policy = policy(Profile::Public, rules);
        let good = "good.org".parse().unwrap();
        let allowed = |name| matches!(policy.decide_lookup(name), Decision::Allow { .. });
        assert_eq!(allowed(Some(&good)), looked_up, "{rules:?}");
        assert_eq!(allowed(None), other, "{rules:?}");
    }
    let none = policy(Profile::None, &[]);
    assert!(matches!(none.decide_lookup(None), Decision::Deny(_)));
    // An alias of a name that is allowed needs no rule of its own.
    let policy = policy(Profile::Public, &["allow good.org", "deny *"]);
    let alias = policy.decide_name(&"cdn.net".parse().unwrap(), None);
    assert!(matches!(alias, Decision::Allow { .. }));
}

#[test]
fn profiles_are_read_by_name() {
    for profile in [Profile::Public, Profile::None, Profile::All] {
        assert_eq!(profile.to_string().parse::<Profile>().unwrap(), profile);
    }
    assert!("open".parse::<Profile>().is_err());
}
