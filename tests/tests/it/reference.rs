//! Policy files as people have them: they load unchanged and do what their folder's
//! README says.

use anyhow::Result;
use tidegate_tests::harness::{Curl, Running, Workload, World, server, tag::repository};

use crate::dns_names::dig;

/// A world for one or more reference policies.
struct Reference {
    world: World,
    servers: Vec<Running>,
}

impl Reference {
    fn new() -> Result<Self> {
        Ok(Self {
            world: World::new()?,
            servers: Vec::new(),
        })
    }

    fn policy(&self, name: &str) -> Result<()> {
        let file = repository()
            .join("host/policy/testdata/reference")
            .join(name);
        self.world.node.copy(&file, &format!("policies/{name}"))
    }

    fn workload(&mut self, name: &str, namespace: &str, label: (&str, &str)) -> Result<Workload> {
        let workload = self.world.workload(name)?;
        self.world.node.endpoint(&workload, namespace, &[label])?;
        Ok(workload)
    }

    fn nginx(&mut self, place: &Workload, port: u16) -> Result<()> {
        self.servers
            .push(server::nginx(place, port, &self.world.dir())?);
        Ok(())
    }
}

#[test]
fn l4_allow() -> Result<()> {
    let mut lab = Reference::new()?;
    lab.policy("l4-allow.yaml")?;
    let backend = lab.workload("backend", "production", ("app", "backend"))?;
    let frontend = lab.workload("frontend", "production", ("app", "frontend"))?;
    let other = lab.workload("other", "production", ("app", "other"))?;
    // The same label in another namespace is somebody else.
    let namesake = lab.workload("namesake", "staging", ("app", "frontend"))?;
    lab.nginx(&backend, 8080)?;
    lab.world.node.start()?;
    let request = Curl::get(format!("http://{}:8080/", backend.v4));
    request.expect(&frontend, 200)?;
    request.expect_dropped(&other)?;
    request.expect_dropped(&namesake)?;
    Curl::get(format!("http://{}:8081/", backend.v4)).expect_dropped(&frontend)?;
    let drop = lab
        .world
        .node
        .record(&["--from", "other", "--verdict", "dropped"], |_| true)?;
    assert_eq!(drop["dropReasonText"], "Policy denied");
    Ok(())
}

#[test]
fn l7_http_simple() -> Result<()> {
    let mut lab = Reference::new()?;
    lab.policy("l7-http-simple.yaml")?;
    let server = lab.workload("api-server", "default", ("app", "api-server"))?;
    let frontend = lab.workload("frontend", "default", ("role", "frontend"))?;
    lab.nginx(&server, 80)?;
    lab.world.node.start()?;
    let url = |path: &str| format!("http://{}{path}", server.v4);
    Curl::get(url("/api/v1/users")).expect(&frontend, 200)?;
    for path in [
        "/api/v1/users/7",
        "/api/v1/users?x=1",
        "/",
        "/api/v1/user",
        "/x/api/v1/users",
    ] {
        Curl::get(url(path)).expect(&frontend, 403)?;
    }
    Curl::get(url("/api/v1/users"))
        .method("POST")
        .expect(&frontend, 403)?;
    Ok(())
}

#[test]
fn l7_http_headers() -> Result<()> {
    let mut lab = Reference::new()?;
    lab.policy("l7-http-headers.yaml")?;
    let server = lab.workload("api-server", "production", ("app", "api-server"))?;
    let frontend = lab.workload("web-frontend", "production", ("app", "web-frontend"))?;
    lab.nginx(&server, 8080)?;
    lab.world.node.start()?;
    let url = |path: &str| format!("http://{}:8080{path}", server.v4);
    Curl::get(url("/api/v1/users")).expect(&frontend, 200)?;
    Curl::get(url("/api/v1/products")).expect(&frontend, 200)?;
    let order = Curl::get(url("/api/v1/orders")).with(&["--data", "{}"]);
    order
        .clone()
        .header("Content-Type: application/json")
        .expect(&frontend, 200)?;
    order
        .clone()
        .header("Content-Type: application/json; charset=utf-8")
        .expect(&frontend, 403)?;
    order
        .clone()
        .header("Content-Type: text/plain")
        .expect(&frontend, 403)?;
    order.header("Content-Type:").expect(&frontend, 403)?;
    Ok(())
}

#[test]
fn egress_fqdn() -> Result<()> {
    let mut lab = Reference::new()?;
    lab.policy("egress-fqdn.yaml")?;
    let dns = lab.world.workload("kube-dns")?;
    lab.world
        .node
        .endpoint(&dns, "kube-system", &[("k8s-app", "kube-dns")])?;
    let mut payment = lab.workload("payment", "production", ("app", "payment-service"))?;
    for address in ["198.51.100.10", "198.51.100.20", "198.51.100.30"] {
        lab.world.outside_address(address.parse()?)?;
    }
    lab.servers.push(server::dns(
        &dns,
        &[
            ("api.stripe.example", "198.51.100.10"),
            ("other.stripe.example", "198.51.100.20"),
            ("evil.example", "198.51.100.30"),
        ],
    )?);
    lab.servers
        .push(server::nginx(&lab.world.outside, 443, &lab.world.dir())?);
    payment.set_resolver(dns.v4)?;
    lab.world.node.start()?;

    // An address is closed until its name was asked for.
    Curl::get("http://198.51.100.10:443/").expect_dropped(&payment)?;
    Curl::get("http://api.stripe.example:443/").expect(&payment, 200)?;
    // Asked for, but not among the names that may be reached.
    let dig = |name: &str| dig(&payment, &dns.v4.to_string(), &[name]);
    assert!(dig("other.stripe.example")?.contains("198.51.100.20"));
    Curl::get("http://198.51.100.20:443/").expect_dropped(&payment)?;
    assert!(dig("evil.example")?.contains("REFUSED"));
    Curl::get("http://api.stripe.example:80/").expect_dropped(&payment)?;

    let refused = lab
        .world
        .node
        .record(&["--protocol", "dns", "--verdict", "dropped"], |_| true)?;
    assert_eq!(refused["l7"]["query"], "evil.example.");
    let names = lab.world.node.text(&["fqdn", "list"])?;
    assert!(
        names.contains("api.stripe.example") && names.contains("198.51.100.10"),
        "{names}"
    );
    Ok(())
}

#[test]
fn deny_all_and_allow_after_deny() -> Result<()> {
    let mut lab = Reference::new()?;
    lab.policy("deny-all-ingress.yaml")?;
    let web = lab.workload("web", "policy-test", ("app", "web"))?;
    let client = lab.workload("client", "policy-test", ("run", "client"))?;
    let other = lab.workload("other", "policy-test", ("run", "other"))?;
    lab.nginx(&web, 80)?;
    lab.world.node.start()?;
    let request = Curl::get(format!("http://{}/", web.v4));
    request.expect_dropped(&client)?;
    // Taken as people mean it, and said so.
    let lint = lab.world.node.problem("deny-all-ingress")?;
    assert_eq!(lint["severity"], "warning");

    let file = repository().join("host/policy/testdata/reference/allow-after-deny.yaml");
    lab.world
        .node
        .change(|node| node.copy(&file, "policies/allow-after-deny.yaml"))?;
    request.expect(&client, 200)?;
    request.expect_dropped(&other)?;
    Ok(())
}
