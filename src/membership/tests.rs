//! What lists of members may say, and how a peer's health follows from what it does.

use super::*;

const OWN: &str = "10.0.0.1:7400";

fn members<const N: usize>(listed: [Member; N]) -> Result<Members, ConfigError> {
    Members::new(listed, &Member::new(OWN))
}

fn at(millis: u64) -> Moment {
    Moment::after_start(Duration::from_millis(millis))
}

/// A peer that failed that many times in a row, `every` milliseconds, the last time at the moment returned.
fn down_after(failures: u64, every: u64) -> (Health, Moment) {
    let mut health = Health::default();
    for n in 1..=failures {
        health.on_failure(at(n * every), 0.5, "connection refused");
    }
    (health, at(failures * every))
}

#[test]
fn lists_that_say_the_same_are_equal() {
    let [a, b, c] = [OWN, "10.0.0.2:7400", "10.0.0.3:7400"].map(Member::new);
    let plain = members([a.clone(), b.clone(), c.clone()]).unwrap();
    for (case, list) in [
        ("another order", vec![c.clone(), a.clone(), b.clone()]),
        ("repetitions", vec![b.clone(), c.clone(), b.clone(), a, c.clone()]),
        ("without this node", vec![b, c]),
    ] {
        assert_eq!(Members::new(list, &Member::new(OWN)).unwrap(), plain, "{case}");
    }
}

#[test]
fn members_are_in_the_order_of_their_names() {
    let listed = members([Member::new("z:1").named("a"), Member::new("a:1").named("z")]).unwrap();
    let names: Vec<&str> = listed.iter().map(|member| member.name.as_str()).collect();
    assert_eq!(names, [OWN, "a", "z"]);
    assert_eq!((listed.len(), listed.own_index()), (3, 0));
    assert_eq!(listed.index_of(&"a".into()), Some(1));
    assert_eq!(listed.index_of(&"b".into()), None);
}

#[test]
fn a_node_finds_its_own_place() {
    let own = Member::new("m:1");
    let listed = Members::new(["a:1", "z:1", "k:1"].map(Member::new), &own).unwrap();
    assert_eq!(listed.own_index(), 2);
    assert_eq!(listed.index_of(&own.name), Some(2));
    assert_eq!(Members::alone(&own).names_and_weights(), [("m:1".into(), 1)]);
}

#[test]
fn an_empty_list_is_no_list_but_a_list_of_this_node_is() {
    assert_eq!(members([]), Err(ConfigError::NoPeers));
    assert_eq!(members([Member::new(OWN)]), Ok(Members::alone(&Member::new(OWN))));
    assert_eq!(Placement::of([""; 0]), Err(ConfigError::NoPeers));
}

#[test]
fn a_node_is_listed_once_or_alike() {
    let conflict = Err(ConfigError::ConflictingMember { name: "b".into() });
    let b = Member::new("b:1").named("b");
    assert_eq!(members([b.clone(), Member::new("b:2").named("b")]), conflict);
    assert_eq!(members([b.clone(), b.clone().weight(2)]), conflict);
    let shared = ConfigError::SharedAddress { address: "b:1".into(), first: "b".into(), second: "c".into() };
    assert_eq!(members([Member::new("b:1").named("c"), b]), Err(shared));
}

#[test]
fn the_list_must_agree_with_how_this_node_was_built() {
    for listed in [
        Member::new("10.0.0.9:7400").named(OWN),
        Member::new(OWN).weight(2),
        Member::new(OWN).named("another name at the same address"),
    ] {
        let error = members([Member::new("b:1"), listed.clone()]).unwrap_err();
        assert!(matches!(error, ConfigError::DifferentSelf { .. }), "{listed:?}: {error}");
    }
}

#[test]
fn a_cluster_has_room_for_ten_thousand() {
    let own = Member::new("n0:1");
    let listed = |count: usize| (1..count).map(|i| Member::new(format!("n{i}:1")));
    assert_eq!(Members::new(listed(10_000), &own).unwrap().len(), 10_000);
    let error = Members::new(listed(10_001), &own).unwrap_err();
    assert_eq!(error, ConfigError::TooManyMembers { len: 10_001, limit: 10_000 });
}

#[test]
fn a_name_has_1_to_255_bytes() {
    for (name, fine) in [("", false), ("é", true), (&"n".repeat(255), true), (&"n".repeat(256), false)] {
        let error = ConfigError::InvalidName { name: name.into() };
        let want = if fine { Ok(()) } else { Err(error) };
        assert_eq!(check_member(&Member::new("a:1").named(name)), want, "{name:?}");
    }
}

#[test]
fn a_weight_is_1_to_65536() {
    for (weight, fine) in [(0, false), (1, true), (65_536, true), (65_537, false)] {
        let error = ConfigError::InvalidWeight { name: "a:1".into(), weight };
        let want = if fine { Ok(()) } else { Err(error) };
        assert_eq!(check_member(&Member::new("a:1").weight(weight)), want, "{weight}");
    }
}

#[test]
fn an_address_is_a_host_and_a_port() {
    for address in ["10.0.0.1:7400", "cache-0.cache:1", "[::1]:65535", "[2001:db8::7]:80", "xn--gre-dlae.example:7400"]
    {
        assert_eq!(check_member(&Member::new(address)), Ok(()), "{address}");
    }
    let others = "a : :7400 a: a:0 a:65536 a:+1 a:-1 a/b:1 http://a:1 u@a:1 ::1:7400 a:b:1 []:1 [a]:1 [::1:1 ::1]:1 [::1] [::1]1 größe.example:7400";
    for address in others.split(' ').chain(["", "a:1 ", " a:1", "a b:1", "a\0:1"]) {
        let error = ConfigError::InvalidAddress { address: address.into() };
        assert_eq!(check_member(&Member::new(address).named("n")), Err(error), "{address:?}");
    }
}

#[test]
fn an_address_of_no_host_in_particular_is_not_one_that_peers_can_reach() {
    for address in ["0.0.0.0:7400", "[::]:7400"] {
        let error = ConfigError::UnspecifiedAddress { address: address.into() };
        assert_eq!(check_member(&Member::new(address)), Err(error), "{address}");
    }
}

#[test]
fn the_fingerprint_is_of_names_and_weights_alone() {
    let fingerprint = |listed: [Member; 2]| members(listed).unwrap().fingerprint();
    let plain = fingerprint([Member::new("b:1"), Member::new("c:1")]);
    assert_eq!(fingerprint([Member::new("c:1"), Member::new("b:1")]), plain, "the order of listing");
    assert_eq!(fingerprint([Member::new("b:2").named("b:1"), Member::new("c:1")]), plain, "an address");
    assert_ne!(fingerprint([Member::new("b:1").weight(2), Member::new("c:1")]), plain, "a weight");
    assert_ne!(fingerprint([Member::new("b:1").named("b"), Member::new("c:1")]), plain, "a name");
    assert_ne!(fingerprint([Member::new("b:1"), Member::new("b:1")]), plain, "a member");
}

#[test]
fn fingerprints_are_as_published() {
    let vectors = include_str!("../../proto/peerage/v1/placement-vectors.json");
    let vectors: serde_json::Value = serde_json::from_str(vectors).unwrap();
    for membership in vectors["memberships"].as_array().unwrap() {
        let given = membership["members"].as_array().unwrap().iter().rev();
        let listed = given.zip(1..).map(|(member, port)| {
            let (name, weight) = (member["name"].as_str().unwrap(), member["weight"].as_u64().unwrap());
            Member::new(format!("host:{port}")).named(name).weight(u32::try_from(weight).unwrap_or(u32::MAX))
        });
        let listed: Vec<Member> = listed.collect();
        let members = Members::new(listed.clone(), &listed[0]).unwrap();
        assert_eq!(format!("{:016x}", members.fingerprint()), membership["fingerprint"].as_str().unwrap());
    }
}

#[test]
fn differences_name_the_nodes() {
    let ours = members([Member::new("b:1"), Member::new("c:1"), Member::new("d:1").weight(2)]).unwrap();
    let theirs = [("d:1".into(), 1), (OWN.into(), 1), ("x:1".into(), 1), ("e:1".into(), 1), ("c:1".into(), 1)];
    let want = Differences {
        only_here: vec!["b:1".into()],
        only_there: vec!["e:1".into(), "x:1".into()],
        other_weight: vec!["d:1".into()],
    };
    assert_eq!(ours.differences(&theirs), want);
    assert_eq!(ours.differences(&ours.names_and_weights()), Differences::default());
}

#[test]
fn a_peer_is_asked_until_it_fails_and_again_when_it_answers() {
    let mut health = Health::default();
    assert_eq!((health.usable(), health.retry_at(), health.state()), (true, None, PeerState::Connecting));
    health.on_failure(at(0), 0.5, "connection refused");
    assert!(!health.usable());
    assert_eq!(health.state(), PeerState::Down { why: "connection refused".into() });
    health.on_up();
    assert_eq!((health.usable(), health.retry_at(), health.state()), (true, None, PeerState::Up));
}

#[test]
fn pauses_double_up_to_a_second_and_stay_there() {
    let lengths = [1, 2, 3, 4, 5, 6, 1000].map(|failures| {
        let (health, last) = down_after(failures, 10);
        health.retry_at().unwrap().since(last).as_millis()
    });
    assert_eq!(lengths, [75, 150, 300, 600, 750, 750, 750], "three quarters, at the middle jitter");
    assert_eq!(pause(u32::MAX, 0.5), Duration::from_millis(750));
}

#[test]
fn jitter_takes_off_up_to_half_of_a_pause() {
    assert_eq!(pause(1, 0.0), SHORTEST_PAUSE);
    assert_eq!(pause(9, 0.0), LONGEST_PAUSE / 2);
    assert!(pause(9, 0.999) < LONGEST_PAUSE && pause(9, 0.999) > LONGEST_PAUSE.mul_f64(0.99));
}

#[test]
fn an_answer_ends_the_count_of_failures() {
    let (mut health, last) = down_after(9, 1000);
    assert_eq!(health.down_for(last), Some(Duration::from_secs(8)), "down since the first failure");
    health.on_up();
    assert_eq!(health.down_for(last), None);
    health.on_failure(last, 0.0, "reset");
    assert_eq!(health.retry_at(), Some(last + SHORTEST_PAUSE));
}

#[test]
fn a_message_from_a_peer_that_is_down_has_it_tried_at_once() {
    let (mut health, last) = down_after(9, 1000);
    let now = last + Duration::from_millis(100);
    health.on_inbound(now);
    assert!(!health.usable(), "a message says that the peer lives, not that it can be reached");
    assert_eq!(health.retry_at(), Some(now));
    health.on_inbound(now + Duration::from_millis(1));
    assert_eq!(health.retry_at(), Some(now), "a further message puts nothing off");
    health.on_failure(now, 0.5, "connection refused");
    assert_eq!(health.retry_at(), Some(now + Duration::from_millis(750)), "a failure still adds to the others");
}

#[test]
fn a_peer_that_sends_but_cannot_be_reached_is_not_tried_as_fast_as_it_sends() {
    let mut health = Health::default();
    let mut tries = 0;
    for now in (0..1000).map(at) {
        health.on_inbound(now);
        if health.retry_at().is_none_or(|retry_at| retry_at <= now) {
            health.on_failure(now, 0.0, "unreachable");
            tries += 1;
        }
    }
    assert_eq!(tries, 20, "one in 50 ms");
}

#[test]
fn a_draining_peer_is_not_asked_until_it_is_back() {
    let mut health = Health::default();
    health.on_draining(at(0));
    health.on_inbound(at(1));
    assert_eq!((health.usable(), health.state()), (false, PeerState::Draining), "it sends while it drains");
    assert_eq!(health.retry_at(), Some(at(5000)));
    health.on_failure(at(2), 0.0, "closed");
    assert_eq!(health.retry_at(), Some(at(52)), "it is gone, and may be back any time");
    health.on_up();
    assert!(health.usable());
}

#[test]
fn a_goodbye_that_comes_after_the_end_does_not_hide_the_return() {
    let (mut health, last) = down_after(1, 1000);
    let (retry_at, state) = (health.retry_at(), health.state());
    health.on_draining(last + Duration::from_millis(1));
    assert_eq!((health.retry_at(), health.state()), (retry_at, state), "its end is known already");
    let back = last + SHORTEST_PAUSE;
    health.on_inbound(back);
    assert_eq!(health.retry_at(), Some(back), "what it says next has it tried at once");
}

#[test]
fn a_peer_that_refused_is_tried_again_slowly() {
    let mut health = Health::default();
    health.on_refused(at(0), "belongs to cluster \"staging\"");
    health.on_inbound(at(1));
    assert!(!health.usable());
    assert_eq!(health.retry_at(), Some(at(5000)));
    assert_eq!(health.state(), PeerState::Refused { why: "belongs to cluster \"staging\"".into() });
}

#[test]
fn a_peer_that_was_down_and_answers_that_it_drains_is_left_alone_for_a_while() {
    let mut health = Health::default();
    health.on_failure(at(0), 0.0, "the connection was closed");
    health.on_found_draining(at(100));
    assert_eq!((health.usable(), health.state()), (false, PeerState::Draining));
    assert!(health.retry_at().unwrap() >= at(1_000), "it would be asked again at once, and again");
}
