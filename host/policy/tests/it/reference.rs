//! The reference policies load unchanged and say what their README says.

use tidegate_policy::{Input, lint, parse_file};

use crate::check::{ask, endpoint, read};

fn text(file: &str) -> String {
    let path = format!("{}/testdata/reference/{file}", env!("CARGO_MANIFEST_DIR"));
    std::fs::read_to_string(path).unwrap()
}

fn check(files: &[&str], endpoints: &[(&str, &str, &str)], questions: &[(&str, &str)]) {
    let mut input = Input::default();
    for (name, address, labels) in endpoints {
        read(
            &mut input,
            "endpoints.yaml",
            &endpoint(name, address, labels),
        );
    }
    for file in files {
        read(&mut input, file, &text(file));
    }
    ask(&input, questions);
}

#[test]
fn l4_allow() {
    check(
        &["l4-allow.yaml"],
        &[
            ("production/backend", "10.1.0.1", "app: backend"),
            ("production/frontend", "10.1.0.2", "app: frontend"),
            ("production/stranger", "10.1.0.3", "app: stranger"),
            ("staging/frontend", "10.1.0.4", "app: frontend"),
        ],
        &[
            (
                "production/backend < production/frontend tcp/8080",
                "allow by production/allow-frontend-to-backend ingress[0].toPorts[0]",
            ),
            (
                "production/backend < production/frontend tcp/8081",
                "default-deny by production/allow-frontend-to-backend",
            ),
            (
                "production/backend < production/frontend udp/8080",
                "default-deny",
            ),
            (
                "production/backend < production/frontend icmp/8",
                "default-deny",
            ),
            (
                "production/backend < production/stranger tcp/8080",
                "default-deny",
            ),
            (
                "production/backend < staging/frontend tcp/8080",
                "default-deny",
            ),
            ("production/backend < 192.0.2.1 tcp/8080", "default-deny"),
            ("production/backend > 192.0.2.1 tcp/8080", "allow"),
            ("production/frontend < 192.0.2.1 tcp/8080", "allow"),
        ],
    );
}

#[test]
fn l7_http_simple() {
    check(
        &["l7-http-simple.yaml"],
        &[
            ("a/api", "10.1.0.1", "app: api-server"),
            ("b/front", "10.1.0.2", "role: frontend"),
            ("b/other", "10.1.0.3", "role: other"),
        ],
        &[
            (
                "a/api < b/front tcp/80",
                "redirect 1 by api-access-control ingress[0].toPorts[0]",
            ),
            (
                "a/api < b/front tcp/81",
                "default-deny by api-access-control",
            ),
            ("a/api < b/other tcp/80", "default-deny"),
        ],
    );
}

#[test]
fn l7_http_headers() {
    check(
        &["l7-http-headers.yaml"],
        &[
            ("production/api", "10.1.0.1", "app: api-server"),
            ("production/web", "10.1.0.2", "app: web-frontend"),
        ],
        &[("production/api < production/web tcp/8080", "redirect 3")],
    );
}

#[test]
fn egress_fqdn() {
    check(
        &["egress-fqdn.yaml"],
        &[
            ("production/pay", "10.1.0.1", "app: payment-service"),
            ("kube-system/dns", "10.1.0.2", "k8s-app: kube-dns"),
            ("production/dns", "10.1.0.3", "k8s-app: kube-dns"),
        ],
        &[
            (
                "production/pay > kube-system/dns udp/53",
                "redirect 2 by production/allow-external-api",
            ),
            ("production/pay > kube-system/dns tcp/53", "default-deny"),
            ("production/pay > production/dns udp/53", "default-deny"),
            ("production/pay > 192.0.2.1 tcp/443", "default-deny"),
            (
                "production/pay > 192.0.2.1=api.stripe.example tcp/443",
                "allow by production/allow-external-api egress[1].toPorts[0]",
            ),
            (
                "production/pay > 192.0.2.1=api.paypal.example tcp/443",
                "allow",
            ),
            (
                "production/pay > 192.0.2.1=api.paypal.example tcp/80",
                "default-deny",
            ),
            (
                "production/pay > 192.0.2.1=www.stripe.example tcp/443",
                "default-deny",
            ),
        ],
    );
}

#[test]
fn deny_all_ingress_and_allow_after_deny() {
    let endpoints = [
        ("policy-test/web", "10.1.0.1", "app: web"),
        ("policy-test/client", "10.1.0.2", "run: client"),
        ("policy-test/other", "10.1.0.3", "run: other"),
    ];
    check(
        &["deny-all-ingress.yaml"],
        &endpoints,
        &[
            (
                "policy-test/web < policy-test/client tcp/80",
                "default-deny by policy-test/deny-all-ingress",
            ),
            ("policy-test/web > policy-test/client tcp/80", "allow"),
            ("policy-test/other < policy-test/client tcp/80", "allow"),
        ],
    );
    check(
        &["deny-all-ingress.yaml", "allow-after-deny.yaml"],
        &endpoints,
        &[
            (
                "policy-test/web < policy-test/client tcp/80",
                "allow by policy-test/allow-client-only ingress[0].toPorts[0]",
            ),
            (
                "policy-test/web < policy-test/client tcp/81",
                "default-deny",
            ),
            ("policy-test/web < policy-test/other tcp/80", "default-deny"),
        ],
    );
    let documents = parse_file("deny.yaml", &text("deny-all-ingress.yaml")).unwrap();
    assert_eq!(
        documents[0].warnings[0].to_string(),
        "deny.yaml:10:12: warning: spec.ingress: an empty list is taken as \"deny all\"; \
         Cilium refuses or ignores it; write `ingress: [{}]` to say so everywhere"
    );
}

#[test]
fn none_of_them_is_suspicious() {
    for file in ["egress-fqdn.yaml", "l4-allow.yaml", "l7-http-headers.yaml"] {
        let mut input = Input::default();
        read(&mut input, file, &text(file));
        // Nobody is there to be selected; nothing else is to be said.
        let mut said = lint(&input);
        said.retain(|problem| !problem.message.starts_with("selects no endpoint"));
        assert_eq!(said, []);
    }
}
