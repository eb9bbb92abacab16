//! Services, deny lists, addresses and numbers.

use tidegate_policy::{
    Ids, Input, compile,
    compiled::{Algorithm, BackendState, IdentityId, ServiceId},
};

use crate::check::{compiled, endpoint, read};

fn service(spec: &str) -> String {
    format!(
        "---\napiVersion: tidegate.io/v1alpha1\nkind: Service\nmetadata: {{name: s, namespace: a}}\nspec: {spec}\n"
    )
}

/// Backends of every frontend as `frontend -> backend …`.
fn check(spec: &str, expected: &[&str]) {
    let mut input = Input::default();
    let web = "spec: {ports: [{name: http, port: 8080}], ";
    let one = endpoint("a/one", "10.0.0.1", "app: web").replace("spec: {", web);
    let two = endpoint("a/two", "fd00::2", "app: web");
    let other = endpoint("b/three", "10.0.0.3", "app: web");
    read(
        &mut input,
        "t.yaml",
        &(one + &two + &other + &service(spec)),
    );
    let said: Vec<String> = compiled(&input)
        .services
        .values()
        .map(|s| {
            let backends: Vec<String> = s
                .backends
                .iter()
                .map(|b| format!("{}:{}x{}", b.addr, b.port, b.weight))
                .collect();
            format!("{} {}:{} -> {}", s.name, s.addr, s.port, backends.join(" "))
        })
        .collect();
    assert_eq!(said, expected, "{spec}");
}

#[test]
fn backends() {
    check(
        "{addresses: [10.96.0.1], ports: [{port: 80, targetPort: 8080}], \
         backends: [{address: 10.0.0.2, weight: 3}, {address: 10.0.0.1}, {address: 10.0.0.3, port: 9}]}",
        &["a/s 10.96.0.1:80 -> 10.0.0.1:8080x1 10.0.0.2:8080x3 10.0.0.3:9x1"],
    );
    check(
        "{addresses: [10.96.0.1, 'fd00::100'], ports: [{port: 80}], selector: {app: web}}",
        &[
            "a/s 10.96.0.1:80 -> 10.0.0.1:80x1",
            "a/s fd00::100:80 -> fd00::2:80x1",
        ],
    );
    check(
        "{addresses: [10.96.0.1], ports: [{name: web, port: 80, targetPort: http}, \
         {name: nix, port: 81, targetPort: nix}], selector: {app: web}}",
        &[
            "a/s:web 10.96.0.1:80 -> 10.0.0.1:8080x1",
            "a/s:nix 10.96.0.1:81 -> ",
        ],
    );
}

#[test]
fn states_and_algorithms() {
    let mut input = Input::default();
    let spec = "{addresses: [10.96.0.1], ports: [{port: 80}], algorithm: maglev, \
                backends: [{address: 10.0.0.2, state: maintenance}]}";
    read(&mut input, "t.yaml", &service(spec));
    let compiled = compiled(&input);
    let (_, service) = compiled.services.get_min().expect("a service");
    assert_eq!(service.algorithm, Algorithm::Maglev);
    assert_eq!(service.backends[0].state, BackendState::Maintenance);
    assert_ne!(service.id, ServiceId(0));
}

/// An endpoint says itself what services may do with it, and is known to be a workload
/// however the service names it.
#[test]
fn endpoints_are_drained_by_their_own_file() {
    let mut input = Input::default();
    let drained =
        endpoint("a/two", "10.0.0.2", "app: web").replace("spec: {", "spec: {state: terminating, ");
    let by_selector =
        service("{addresses: [10.96.0.1], ports: [{port: 80}], selector: {app: web}}");
    let by_address = service(
        "{addresses: [10.96.0.2], ports: [{port: 80}], backends: [{address: 10.0.0.1, weight: 0}, {address: 192.0.2.1}]}",
    )
    .replace("name: s", "name: t");
    let one = endpoint("a/one", "10.0.0.1", "app: web");
    read(
        &mut input,
        "t.yaml",
        &(one + &drained + &by_selector + &by_address),
    );
    let compiled = compiled(&input);
    let said: Vec<Vec<(String, u32, BackendState, bool)>> = compiled
        .services
        .values()
        .map(|service| {
            let backends = service.backends.iter();
            backends
                .map(|b| (b.addr.to_string(), b.weight, b.state, b.workload.is_some()))
                .collect()
        })
        .collect();
    use BackendState::{Active, Terminating};
    assert_eq!(
        said,
        [
            vec![
                ("10.0.0.1".to_owned(), 1, Active, true),
                ("10.0.0.2".to_owned(), 1, Terminating, true),
            ],
            vec![
                ("10.0.0.1".to_owned(), 0, Active, true),
                ("192.0.2.1".to_owned(), 1, Active, false),
            ],
        ]
    );
}

#[test]
fn what_exists_twice_is_refused() {
    let spec = "{addresses: [10.96.0.1], ports: [{port: 80}], backends: [{address: 10.0.0.2}]}";
    for (twice, message) in [
        (
            service(spec) + &service(spec).replace("name: s", "name: t"),
            "10.96.0.1:80/TCP already belongs to a/s",
        ),
        (
            service(spec) + &service(spec).replace("10.96.0.1", "10.96.0.2"),
            "Service a/s exists already in t.yaml:2",
        ),
        (
            endpoint("a/one", "10.0.0.1", "")
                + &endpoint("a/two", "10.0.0.1", "").replace("v10", "w10"),
            "10.0.0.1 already belongs to a/one",
        ),
        (
            endpoint("a/one", "10.0.0.1", "")
                + &endpoint("a/two", "10.0.0.2", "").replace("v10.0.0.2", "v10.0.0.1"),
            "v10.0.0.1 already belongs to a/one",
        ),
        // A copied file: one cause, one message.
        (
            endpoint("a/one", "10.0.0.1", "") + &endpoint("a/one", "10.0.0.1", ""),
            "Endpoint a/one exists already in t.yaml:2",
        ),
    ] {
        let mut input = Input::default();
        read(&mut input, "t.yaml", &twice);
        let problems = compile(&input, &mut Ids::default()).unwrap_err();
        assert_eq!(
            problems
                .iter()
                .map(|p| p.message.as_str())
                .collect::<Vec<_>>(),
            [message]
        );
        assert!(problems[0].document.is_some(), "{problems:?}");
    }
}

#[test]
fn deny_lists() {
    let mut input = Input::default();
    let text = "apiVersion: tidegate.io/v1alpha1\nkind: DenyList\nmetadata: {name: bad}\n\
                spec:\n  cidrs:\n  - 192.0.2.0/24\n  - 2001:db8::/32\n  - 198.51.100.7\n";
    read(&mut input, "d.yaml", text);
    let compiled = compiled(&input);
    let said: Vec<String> = compiled
        .deny_list
        .iter()
        .map(|(net, rule)| {
            format!(
                "{net} {}:{}",
                compiled.rules[rule].short(),
                compiled.rules[rule].line
            )
        })
        .collect();
    assert_eq!(
        said,
        [
            "192.0.2.0/24 bad cidrs[0]:6",
            "198.51.100.7/32 bad cidrs[2]:8",
            "2001:db8::/32 bad cidrs[1]:7",
        ]
    );
}

#[test]
fn numbers_stay_when_others_come_and_go() {
    let (mut before, mut after) = (Input::default(), Input::default());
    let one = endpoint("a/one", "10.0.0.1", "app: one");
    let two = endpoint("a/two", "10.0.0.2", "app: two");
    read(&mut before, "t.yaml", &(one + &two));
    read(&mut after, "t.yaml", &two);
    let mut ids = Ids::default();
    let first = compile(&before, &mut ids).unwrap();
    let second = compile(&after, &mut ids).unwrap();
    let id_of = |compiled: &tidegate_policy::compiled::Compiled| {
        let found = compiled.endpoints.iter().find(|(_, e)| e.name == "a/two");
        found
            .map(|(id, endpoint)| (*id, endpoint.identity))
            .unwrap()
    };
    assert_eq!(id_of(&first), id_of(&second));
    assert_eq!(id_of(&first).1, IdentityId(257));
    assert_eq!(
        first.ipcache[&"0.0.0.0/0".parse::<ipnet::IpNet>().unwrap()].identity,
        IdentityId(9)
    );
    assert_eq!(*first.identities[&IdentityId(1)], ["reserved:host"]);
    assert_eq!(
        *first.identities[&IdentityId(257)],
        [
            "k8s:app=two",
            "k8s:io.cilium.k8s.policy.cluster=default",
            "k8s:io.kubernetes.pod.namespace=a"
        ]
    );
}
