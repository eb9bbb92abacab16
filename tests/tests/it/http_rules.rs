//! Decided in the proxy, request by request.

use anyhow::Result;
use tidegate_tests::harness::Curl;

use crate::shop::{H2, HTTP, Shop};

#[test]
fn what_no_rule_allows_is_answered_403_and_attributed() -> Result<()> {
    let shop = Shop::running()?;
    for url in [shop.url(HTTP, "/api/users"), shop.url6(HTTP, "/api/users")] {
        Curl::get(url).expect(&shop.frontend, 200)?;
    }
    for url in [shop.url(HTTP, "/admin"), shop.url6(HTTP, "/admin")] {
        let answer = Curl::get(url).expect(&shop.frontend, 403)?;
        assert_eq!(answer.body, "Access denied\r\n");
    }
    let drop = shop
        .world
        .node
        .record(&["--protocol", "http", "--verdict", "dropped"], |_| true)?;
    assert_eq!(drop["l7"]["method"], "GET");
    assert_eq!(drop["l7"]["status"], 403);
    assert!(
        drop["l7"]["url"]
            .as_str()
            .is_some_and(|url| url.ends_with("/admin")),
        "{drop}"
    );
    assert!(
        drop["rules"][0]
            .as_str()
            .is_some_and(|rule| rule.contains("shop/backend")),
        "{drop}"
    );
    // Who may not connect at all does not get as far as a 403.
    Curl::get(shop.url(HTTP, "/api/users")).expect_dropped(&shop.stranger)
}

#[test]
fn a_path_is_judged_as_the_server_will_read_it() -> Result<()> {
    let shop = Shop::running()?;
    for path in [
        "/api/../admin",
        "/api/%2e%2e/admin",
        "/admin/%2e/",
        "//admin",
    ] {
        Curl::get(shop.url(HTTP, path))
            .with(&["--path-as-is"])
            .expect(&shop.frontend, 403)?;
    }
    Curl::get(shop.url(HTTP, "/x/../api/y"))
        .with(&["--path-as-is"])
        .expect(&shop.frontend, 200)?;
    Ok(())
}

#[test]
fn keep_alive_carries_allowed_and_refused_requests_on_one_connection() -> Result<()> {
    let shop = Shop::running()?;
    let urls = ["/api/1", "/admin", "/api/2"].map(|path| shop.url(HTTP, path));
    let out = shop.frontend.run(
        "curl",
        &[
            "-s",
            "-o",
            "/dev/null",
            "-o",
            "/dev/null",
            "-o",
            "/dev/null",
            "-w",
            "%{http_code} %{num_connects}\\n",
        ]
        .map(str::to_owned)
        .into_iter()
        .chain(urls)
        .collect::<Vec<_>>(),
    )?;
    assert_eq!(
        String::from_utf8_lossy(&out.stdout),
        "200 1\n403 0\n200 0\n"
    );
    Ok(())
}

#[test]
fn http2_without_tls_is_filtered_stream_by_stream() -> Result<()> {
    let shop = Shop::running()?;
    let h2 = |path: &str| Curl::get(shop.url(H2, path)).with(&["--http2-prior-knowledge"]);
    let answer = h2("/api/users").expect(&shop.frontend, 200)?;
    assert!(
        answer.headers.starts_with("HTTP/2 200"),
        "{}",
        answer.headers
    );
    h2("/admin").expect(&shop.frontend, 403)?;

    // Three streams at once on one connection, the middle one refused.
    let urls = ["/api/1", "/admin", "/api/2"].map(|path| shop.url(H2, path));
    let out = shop.frontend.run(
        "nghttp",
        &[vec!["-n".into(), "-s".into()], urls.to_vec()].concat(),
    )?;
    let text = String::from_utf8_lossy(&out.stdout);
    assert_eq!(text.matches(" 200 ").count(), 2, "{text}");
    assert_eq!(text.matches(" 403 ").count(), 1, "{text}");
    Ok(())
}

#[test]
fn requests_that_could_be_read_in_two_ways_are_refused() -> Result<()> {
    use std::io::{Read as _, Write as _};
    let shop = Shop::running()?;
    for head in [
        "GET /api/x HTTP/1.1\r\nHost: a\r\nContent-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n",
        "GET /api/x HTTP/1.1\r\nHost: a\r\nContent-Length: 4\r\nContent-Length: 5\r\n\r\n",
        "GET /api/x HTTP/1.1\r\nHost : a\r\n\r\n",
        "GET /api/x HTTP/1.1\r\nHost: a\r\nX: a\r\n b\r\n\r\n",
    ] {
        let mut stream =
            tidegate_tests::harness::server::connect(&shop.frontend, (shop.backend.v4, HTTP))?;
        stream.write_all(head.as_bytes())?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        assert!(answer.starts_with("HTTP/1.1 400 "), "{head:?}: {answer:?}");
    }
    Ok(())
}
