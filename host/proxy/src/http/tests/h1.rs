use super::*;

const GET: &str = "GET /x HTTP/1.1\r\nHost:a\r\n\r\n";
const OK: &str = "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok";
const DENIED: &str = "HTTP/1.1 403 Forbidden\r\ncontent-length: 15\r\ncontent-type: text/plain\r\n\r\nAccess denied\r\n";
const DENIED_CLOSE: &str = "HTTP/1.1 403 Forbidden\r\ncontent-length: 15\r\ncontent-type: text/plain\r\nconnection: close\r\n\r\nAccess denied\r\n";

#[test]
fn original_bytes_pass_and_the_connection_is_kept() {
    relay(async |mut ends| {
        for _ in 0..3 {
            ends.send(GET).await;
            ends.upstream.expect(GET).await;
            ends.upstream.send(OK).await;
            ends.expect(OK).await;
        }
        ends.expect_records(&["HTTP/1.1 GET http://a/x 200 allowed"; 3]);
    });
}

#[test]
fn pipelined_requests_are_decided_one_by_one() {
    relay(async |mut ends| {
        let denied = "GET /denied HTTP/1.1\r\nHost: a\r\n\r\n";
        ends.send(&format!("\r\n{GET}{denied}{GET}")).await;
        ends.upstream.expect(GET).await;
        ends.upstream.send(OK).await;
        ends.upstream.expect(GET).await;
        ends.upstream.send(OK).await;
        ends.expect(&format!("{OK}{DENIED}{OK}")).await;
    });
}

#[test]
fn a_refused_request_never_reaches_upstream() {
    relay(async |mut ends| {
        ends.send("POST /denied HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nhel")
            .await;
        ends.expect(DENIED).await;
        ends.send("lo").await;
        ends.send("HEAD /denied HTTP/1.1\r\nHost: a\r\n\r\n").await;
        ends.expect(DENIED.strip_suffix("Access denied\r\n").expect("body"))
            .await;
        ends.upstream.expect_untouched().await;
        ends.send("POST /denied HTTP/1.1\r\nHost: a\r\nContent-Length: 99999999\r\n\r\n")
            .await;
        ends.expect(DENIED_CLOSE).await;
        ends.expect_close().await;
        ends.expect_records(&[
            "HTTP/1.1 POST http://a/denied 403 refused",
            "HTTP/1.1 HEAD http://a/denied 403 refused",
            "HTTP/1.1 POST http://a/denied 403 refused",
        ]);
    });
}

#[test]
fn a_refused_body_of_unknown_length_is_drained_within_a_bound() {
    let head = "POST /denied HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n";
    relay(async |mut ends| {
        ends.send(head).await;
        ends.expect(DENIED).await;
        ends.send("5\r\nhello\r\n0\r\n\r\n").await;
        ends.send(GET).await;
        ends.upstream.expect(GET).await;
    });
    relay(async |mut ends| {
        ends.send(head).await;
        ends.expect(DENIED).await;
        let chunk = format!("8000\r\n{}\r\n", "x".repeat(0x8000));
        for _ in 0..3 {
            ends.send(&chunk).await;
        }
        ends.expect_close().await;
        ends.upstream.expect_untouched().await;
    });
}

#[test]
fn every_spelling_of_a_path_meets_the_rule() {
    for path in [
        "//denied",
        "/x/../denied",
        "/%64enied",
        "/x/%2e%2e/./denied",
        "\\denied",
    ] {
        relay(async |mut ends| {
            ends.send(&format!(
                "GET {} HTTP/1.1\r\nHost: a\r\n\r\n",
                path.replace('\\', "/\\")
            ))
            .await;
            ends.expect(DENIED).await;
        });
    }
    relay(async |mut ends| {
        ends.send("GET /x//../a%2Fdenied?q HTTP/1.1\r\nHost: a\r\n\r\n")
            .await;
        ends.expect("HTTP/1.1 307 Temporary Redirect\r\ncontent-length: 0\r\ncontent-type: text/plain\r\nlocation: /a/denied?q\r\n\r\n").await;
        ends.send("GET /x//%7Ey?q=// HTTP/1.1\r\nHost:a\r\n\r\n")
            .await;
        ends.upstream
            .expect("GET /x/~y?q=// HTTP/1.1\r\nHost: a\r\n\r\n")
            .await;
    });
}

#[test]
fn bodies_and_trailers_stream_both_ways() {
    relay(async |mut ends| {
        let head = "POST /x HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n";
        ends.send(head).await;
        ends.upstream.expect(head).await;
        let answer = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTrailer: t\r\n\r\n";
        ends.upstream.send(answer).await;
        ends.expect(answer).await;
        for chunk in ["5\r\nhello\r\n", "2\r\n", "ok", "\r\n0\r\nT: v", "\r\n\r\n"] {
            ends.send(chunk).await;
            ends.upstream.expect(chunk).await;
            ends.upstream.send(chunk).await;
            ends.expect(chunk).await;
        }
        ends.send(GET).await;
        ends.upstream.expect(GET).await;
    });
}

#[test]
fn large_bodies_pass_with_little_memory() {
    relay(async |mut ends| {
        const SIZE: usize = 5 << 20;
        ends.send("GET /x HTTP/1.0\r\n\r\n").await;
        let upstream = async {
            ends.upstream.expect("GET /x HTTP/1.0\r\n\r\n").await;
            ends.upstream.send("HTTP/1.0 200 OK\r\n\r\n").await;
            for _ in 0..SIZE / 1024 {
                ends.upstream.send(&"x".repeat(1024)).await;
            }
            ends.upstream.stream = None;
        };
        let mut got = Vec::new();
        let (_, read) = tokio::join!(upstream, ends.client.read_to_end(&mut got));
        read.expect("read");
        assert_eq!(got.len(), SIZE + "HTTP/1.0 200 OK\r\n\r\n".len());
    });
}

#[test]
fn a_client_may_wait_for_100_continue() {
    relay(async |mut ends| {
        let head =
            "PUT /x HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 2\r\n\r\n";
        ends.send(head).await;
        ends.upstream.expect(head).await;
        ends.upstream.send("HTTP/1.1 100 Continue\r\n\r\n").await;
        ends.expect("HTTP/1.1 100 Continue\r\n\r\n").await;
        ends.send("ok").await;
        ends.upstream.expect("ok").await;
        ends.upstream.send(OK).await;
        ends.expect(OK).await;
        ends.expect_records(&["HTTP/1.1 PUT http://a/x 200 allowed"]);
    });
}

/// Whether the body still comes then, only the client knows; its next bytes could as
/// well be a request.
#[test]
fn after_an_early_answer_nothing_more_goes_into_the_connection() {
    for expect in ["", "Expect: 100-continue\r\n"] {
        relay(async |mut ends| {
            let head = format!("PUT /x HTTP/1.1\r\nHost: a\r\n{expect}Content-Length: 4\r\n\r\n");
            ends.send(&head).await;
            ends.upstream.expect(&head).await;
            ends.upstream.send(OK).await;
            ends.expect("HTTP/1.1 200 OK\r\ncontent-length: 2\r\nconnection: close\r\n\r\nok")
                .await;
            ends.send(GET).await;
            ends.expect_close().await;
            ends.upstream.expect_end().await;
            ends.expect_records(&["HTTP/1.1 PUT http://a/x 200 allowed"]);
        });
    }
}

#[test]
fn an_early_answer_does_not_cut_a_request_it_overlaps() {
    relay(async |mut ends| {
        let head = "PUT /x HTTP/1.1\r\nHost: a\r\nContent-Length: 4\r\n\r\n";
        ends.send(head).await;
        ends.upstream.expect(head).await;
        let (begin, end) = OK.split_at(OK.len() - 1);
        ends.upstream.send(begin).await;
        ends.expect(begin).await;
        ends.send("body").await;
        ends.upstream.expect("body").await;
        ends.upstream.send(end).await;
        ends.expect(end).await;
        ends.send(GET).await;
        ends.upstream.expect(GET).await;
    });
}

#[test]
fn a_response_that_nobody_asked_for_is_never_the_next_ones() {
    let other = "HTTP/1.1 200 OK\r\ncontent-length: 6\r\n\r\npoison";
    let unasked = "HTTP/1.1   0 refused (upstream sent a response that nobody asked for)";
    let asked = "HTTP/1.1 GET http://a/x 200 allowed";
    // With the response, before the next request was even read.
    relay(async |mut ends| {
        ends.send(&format!("{GET}{GET}")).await;
        ends.upstream.expect(GET).await;
        ends.upstream.send(&format!("{OK}{other}")).await;
        ends.expect(OK).await;
        ends.expect_close().await;
        ends.expect_records(&[asked, unasked]);
    });
    // Between two requests.
    relay(async |mut ends| {
        ends.send(GET).await;
        ends.upstream.expect(GET).await;
        ends.upstream.send(OK).await;
        ends.expect(OK).await;
        ends.upstream.send("HTTP/1.1 100 Continue\r\n\r\n").await;
        ends.expect_close().await;
        ends.expect_records(&[asked, unasked]);
    });
    // While a refused request was being drained.
    relay(async |mut ends| {
        ends.send(GET).await;
        ends.upstream.expect(GET).await;
        ends.upstream.send(OK).await;
        ends.expect(OK).await;
        ends.send("PUT /denied HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\n")
            .await;
        ends.expect(DENIED).await;
        ends.upstream.send(other).await;
        ends.send(&format!("ok{GET}")).await;
        ends.expect_close().await;
        let denied = "HTTP/1.1 PUT http://a/denied 403 refused";
        let lost =
            "HTTP/1.1 GET http://a/x 0 refused (upstream sent a response that nobody asked for)";
        ends.expect_records(&[asked, denied, lost]);
    });
    // A body where there is none.
    for (method, head) in [
        ("HEAD", "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n"),
        ("GET", "HTTP/1.1 204 No Content\r\n\r\n"),
        (
            "GET",
            "HTTP/1.1 304 Not Modified\r\ncontent-length: 2\r\n\r\n",
        ),
    ] {
        relay(async |mut ends| {
            let request = GET.replace("GET", method);
            ends.send(&request).await;
            ends.upstream.expect(&request).await;
            ends.upstream.send(&format!("{head}ok")).await;
            ends.expect(head).await;
            ends.expect_close().await;
        });
    }
    // After a 101 that was not asked for.
    relay(async |mut ends| {
        ends.send(GET).await;
        ends.upstream.expect(GET).await;
        ends.upstream
            .send(&format!(
                "HTTP/1.1 101 Switching Protocols\r\nUpgrade: h2c\r\n\r\n{other}"
            ))
            .await;
        ends.expect("HTTP/1.1 502 Bad Gateway\r\n").await;
        ends.expect_records(&[
            "HTTP/1.1 GET http://a/x 502 refused (invalid response: unexpected 101)",
        ]);
    });
}

#[test]
fn interim_responses_are_bounded() {
    relay(async |mut ends| {
        ends.send(GET).await;
        ends.upstream.expect(GET).await;
        let interim = "HTTP/1.1 103 Early Hints\r\n\r\n";
        ends.upstream.send(&interim.repeat(102)).await;
        ends.expect(&interim.repeat(101)).await;
        ends.expect("HTTP/1.1 502 Bad Gateway\r\n").await;
    });
}

#[test]
fn a_websocket_is_opaque_once_accepted() {
    relay(async |mut ends| {
        let offer =
            "GET /ws HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n";
        let accept =
            "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n";
        ends.send(offer).await;
        ends.upstream.expect(offer).await;
        ends.upstream.send(&format!("{accept}\x01early")).await;
        ends.expect(&format!("{accept}\x01early")).await;
        ends.send("\x02frame").await;
        ends.upstream.expect("\x02frame").await;
        ends.client.shutdown().await.expect("half-close");
        let mut rest = Vec::new();
        ends.upstream
            .stream()
            .await
            .read_to_end(&mut rest)
            .await
            .expect("end");
        ends.upstream.send("last").await;
        ends.expect("last").await;
        ends.expect_records(&["HTTP/1.1 GET http://a/ws 101 allowed"]);
    });
}

#[test]
fn a_server_may_not_switch_to_what_was_not_offered() {
    relay(async |mut ends| {
        let offer =
            "GET /ws HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n";
        ends.send(offer).await;
        ends.upstream.expect(offer).await;
        ends.upstream
            .send("HTTP/1.1 101 Switching Protocols\r\nUpgrade: h2c\r\nConnection: Upgrade\r\n\r\n")
            .await;
        ends.expect("HTTP/1.1 502 Bad Gateway\r\n").await;
        ends.upstream.expect_end().await;
        ends.expect_records(&["HTTP/1.1 GET http://a/ws 502 refused (invalid response: a 101 that does not name websocket alone)"]);
    });
}

#[test]
fn http2_cannot_be_reached_by_upgrade() {
    for name in ["h2c", "h2c;q=1", "h2c foo", "websocket, h2c", "HTTP/2.0"] {
        relay(async |mut ends| {
            ends.send(&format!("GET /x HTTP/1.1\r\nHost: a\r\nConnection: Upgrade, HTTP2-Settings\r\nUpgrade: {name}\r\nHTTP2-Settings: AAMAAABk\r\n\r\n")).await;
            ends.upstream
                .expect("GET /x HTTP/1.1\r\nHost: a\r\n\r\n")
                .await;
            ends.upstream.send(OK).await;
            ends.expect(OK).await;
        });
    }
    relay(async |mut ends| {
        ends.send(GET).await;
        ends.upstream.expect(GET).await;
        ends.upstream
            .send("HTTP/1.1 101 Switching Protocols\r\nUpgrade: h2c\r\n\r\n")
            .await;
        ends.expect("HTTP/1.1 502 Bad Gateway\r\n").await;
    });
}

#[test]
fn connect_opens_a_tunnel_only_on_success() {
    relay(async |mut ends| {
        let connect = "CONNECT b:443 HTTP/1.1\r\nHost: b:443\r\n\r\n";
        ends.send(connect).await;
        ends.upstream.expect(connect).await;
        ends.upstream
            .send("HTTP/1.1 407 No\r\nContent-Length: 2\r\n\r\nno")
            .await;
        ends.expect("HTTP/1.1 407 No\r\nContent-Length: 2\r\n\r\nno")
            .await;
        ends.send(connect).await;
        ends.upstream.expect(connect).await;
        ends.upstream.send("HTTP/1.1 200 OK\r\n\r\n").await;
        ends.expect("HTTP/1.1 200 OK\r\n\r\n").await;
        ends.send("\x16\x03").await;
        ends.upstream.expect("\x16\x03").await;
    });
}

#[test]
fn edits_change_what_they_name_and_nothing_else() {
    relay(async |mut ends| {
        ends.send("GET /edited HTTP/1.1\r\nHost: a\r\nX-Secret: 1\r\nAccept:  */*\r\n\r\n")
            .await;
        ends.upstream
            .expect("GET /edited HTTP/1.1\r\nHost: a\r\nAccept: */*\r\nx-by: plugin\r\n\r\n")
            .await;
        ends.upstream.send(OK).await;
        ends.expect(OK).await;
        ends.send("PUT /reserved HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\n\r\nx")
            .await;
        ends.expect("HTTP/1.1 500 Internal Server Error\r\n").await;
    });
}

#[test]
fn plugins_may_see_responses() {
    relay(async |mut ends| {
        let get = "GET /response HTTP/1.1\r\nHost: a\r\n\r\n";
        ends.send(get).await;
        ends.upstream.expect(get).await;
        ends.upstream
            .send("HTTP/1.1 200 Fine\r\nServer: x\r\nContent-Length: 2\r\n\r\nok")
            .await;
        ends.expect("HTTP/1.1 200 Fine\r\nContent-Length: 2\r\nx-seen: yes\r\n\r\nok")
            .await;
        ends.send(get).await;
        ends.upstream.expect(get).await;
        ends.upstream
            .send("HTTP/1.1 500 Oops\r\nContent-Length: 5\r\n\r\ntrace")
            .await;
        ends.expect("HTTP/1.1 502 Bad Gateway\r\ncontent-length: 8\r\ncontent-type: text/plain\r\nconnection: close\r\n\r\nhidden\r\n").await;
        ends.expect_close().await;
        ends.expect_records(&[
            "HTTP/1.1 GET http://a/response 200 allowed",
            "HTTP/1.1 GET http://a/response 502 refused",
        ]);
    });
}

#[test]
fn smuggling_ends_the_connection() {
    for request in [
        "POST /x HTTP/1.1\r\nHost: a\r\nContent-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        "POST /x HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n0\n\r\n",
        "GET /x HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n",
    ] {
        relay(async |mut ends| {
            ends.send(request).await;
            ends.expect("HTTP/1.1 400 Bad Request\r\n").await;
            ends.upstream.expect_untouched().await;
        });
    }
}

#[test]
fn upstream_failures_are_told_or_shown() {
    relay(async |mut ends| {
        ends.send(GET).await;
        ends.upstream.expect(GET).await;
        ends.upstream.stream = None;
        ends.expect("HTTP/1.1 502 Bad Gateway\r\n").await;
        ends.expect_records(&[
            "HTTP/1.1 GET http://a/x 502 refused (upstream closed: unexpected end of file)",
        ]);
    });
    // On a connection that worked before, the client sees what happened.
    relay(async |mut ends| {
        ends.send(GET).await;
        ends.upstream.expect(GET).await;
        ends.upstream.send(OK).await;
        ends.expect(OK).await;
        ends.upstream.stream = None;
        ends.expect_close().await;
    });
}

/// What broke off on one leg must not look complete on the other.
#[test]
fn a_failure_stays_a_failure_on_the_other_leg() {
    let asked = "HTTP/1.1 GET http://a/x 200 allowed";
    let until_close = "HTTP/1.1 200 OK\r\n\r\nhalf";
    relay(async |mut ends| {
        ends.send(GET).await;
        ends.upstream.expect(GET).await;
        ends.upstream.send(until_close).await;
        ends.expect(until_close).await;
        ends.upstream.reset().await;
        expect_reset(&mut ends.client).await;
        ends.expect_records(&[
            asked,
            "HTTP/1.1 GET http://a/x 200 refused (the response broke off: Connection reset by peer (os error 104))",
        ]);
    });
    // That a body ends with the connection is no failure.
    relay(async |mut ends| {
        ends.send(GET).await;
        ends.upstream.expect(GET).await;
        ends.upstream.send(until_close).await;
        ends.expect(until_close).await;
        ends.upstream.stream = None;
        ends.expect_close().await;
        ends.expect_records(&[asked]);
    });
    for head in [
        "HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhal",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhal",
    ] {
        relay(async |mut ends| {
            ends.send(GET).await;
            ends.upstream.expect(GET).await;
            ends.upstream.send(head).await;
            ends.expect(head).await;
            ends.upstream.stream = None;
            expect_reset(&mut ends.client).await;
            ends.expect_records(&[
                asked,
                "HTTP/1.1 GET http://a/x 200 refused (the response broke off: unexpected end of file)",
            ]);
        });
    }
    // A client that fails in the middle of an upload, or does not want the rest.
    relay(async |mut ends| {
        let head = "PUT /x HTTP/1.1\r\nHost: a\r\nContent-Length: 4\r\n\r\n";
        ends.send(head).await;
        ends.upstream.expect(head).await;
        ends.client.set_zero_linger().expect("linger");
        let (rules, mut upstream) = (ends.rules, ends.upstream);
        drop(ends.client);
        expect_reset(upstream.stream().await).await;
        assert_eq!(
            *rules.records.borrow(),
            ["HTTP/1.1 PUT http://a/x 0 refused (Connection reset by peer (os error 104))"]
        );
    });
    relay(async |mut ends| {
        ends.send(GET).await;
        ends.upstream.expect(GET).await;
        ends.upstream.send(until_close).await;
        ends.expect(until_close).await;
        ends.client.set_zero_linger().expect("linger");
        let (rules, mut upstream) = (ends.rules, ends.upstream);
        drop(ends.client);
        expect_reset(upstream.stream().await).await;
        assert_eq!(*rules.records.borrow(), [asked]);
    });
}

#[test]
fn a_tunnel_passes_on_how_it_ended() {
    let offer = "GET /ws HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n";
    let accept =
        "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n";
    for upstream_fails in [true, false] {
        relay(async |mut ends| {
            ends.send(offer).await;
            ends.upstream.expect(offer).await;
            ends.upstream.send(&format!("{accept}x")).await;
            ends.expect(&format!("{accept}x")).await;
            if upstream_fails {
                ends.upstream.reset().await;
                expect_reset(&mut ends.client).await;
            } else {
                ends.client.set_zero_linger().expect("linger");
                drop(ends.client);
                expect_reset(ends.upstream.stream().await).await;
            }
        });
    }
}

/// Nobody looks into a tunnel, so it is held to the request that opened it, whichever end
/// says something.
#[test]
fn a_tunnel_ends_with_the_first_byte_after_its_request_would_be_refused() {
    let web_socket =
        "GET /ws HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n";
    let switches =
        "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n";
    let connect = "CONNECT a:80 HTTP/1.1\r\nHost: a:80\r\n\r\n";
    let opened = "HTTP/1.1 200 OK\r\n\r\n";
    let changed = "(the rules of its tunnel have changed)";
    for (asks, answer, records) in [
        (
            web_socket,
            switches,
            [
                "HTTP/1.1 GET http://a/ws 101 allowed".to_owned(),
                format!("HTTP/1.1 GET http://a/ws 0 refused {changed}"),
            ],
        ),
        (
            connect,
            opened,
            [
                "HTTP/1.1 CONNECT http://a:80 200 allowed".to_owned(),
                format!("HTTP/1.1 CONNECT http://a:80 0 refused {changed}"),
            ],
        ),
    ] {
        for upstream_speaks in [true, false] {
            relay(async |mut ends| {
                ends.send(asks).await;
                ends.upstream.expect(asks).await;
                ends.upstream.send(answer).await;
                ends.expect(answer).await;
                for _ in 0..2 {
                    ends.send("ping").await;
                    ends.upstream.expect("ping").await;
                    ends.upstream.send("pong").await;
                    ends.expect("pong").await;
                }
                ends.rules.closed.set(true);
                match upstream_speaks {
                    true => ends.upstream.send("more").await,
                    false => ends.send("more").await,
                }
                expect_reset(&mut ends.client).await;
                expect_reset(ends.upstream.stream().await).await;
                assert_eq!(*ends.rules.records.borrow(), records);
            });
        }
    }
}

#[test]
fn the_size_of_a_chunk_may_be_padded_and_a_wrong_one_is_a_502() {
    let head = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n";
    let asked = "HTTP/1.1 GET http://a/x 200 allowed";
    relay(async |mut ends| {
        ends.send(GET).await;
        ends.upstream.expect(GET).await;
        let padded = format!("{head}5  \r\nhello\r\n5 ;a=1\r\nworld\r\n0   \r\n\r\n");
        ends.upstream.send(&padded).await;
        ends.expect(&padded).await;
        ends.send(GET).await;
        ends.upstream.expect(GET).await;
        ends.upstream.send(&format!("{head}5x\r\nhello\r\n")).await;
        ends.expect("HTTP/1.1 502 Bad Gateway\r\n").await;
        ends.expect_records(&[
            asked,
            "HTTP/1.1 GET http://a/x 502 refused (invalid response: malformed chunked body)",
        ]);
    });
    // Too late for a 502.
    relay(async |mut ends| {
        ends.send(GET).await;
        ends.upstream.expect(GET).await;
        ends.upstream.send(&format!("{head}5\r\nhello")).await;
        ends.expect(&format!("{head}5\r\nhello")).await;
        ends.upstream.send("\r\nx").await;
        expect_reset(&mut ends.client).await;
        ends.expect_records(&[
            asked,
            "HTTP/1.1 GET http://a/x 200 refused (the response broke off: malformed chunked body)",
        ]);
    });
}

#[test]
fn blanks_before_a_colon_are_taken_out_of_a_response() {
    relay(async |mut ends| {
        ends.send(GET).await;
        ends.upstream.expect(GET).await;
        ends.upstream
            .send("HTTP/1.1 200 OK\r\nContent-Length : 2\r\nX: y\r\n\r\nok")
            .await;
        ends.expect("HTTP/1.1 200 OK\r\nContent-Length: 2\r\nX: y\r\n\r\nok")
            .await;
        ends.send(GET).await;
        ends.upstream.expect(GET).await;
    });
}

/// Many clients look for an answer only when they have sent everything.
#[test]
fn an_answer_to_a_large_upload_can_be_read() {
    const SIZE: usize = 5 << 20;
    let theirs = "HTTP/1.1 413 Content Too Large\r\ncontent-length: 0\r\nconnection: close\r\n\r\n";
    for (path, answer) in [("denied", DENIED_CLOSE), ("x", theirs)] {
        relay(async |mut ends| {
            let head =
                format!("POST /{path} HTTP/1.1\r\nHost: a\r\nContent-Length: {SIZE}\r\n\r\n");
            ends.send(&head).await;
            if path == "x" {
                ends.upstream.expect(&head).await;
                ends.upstream.send(theirs).await;
                ends.upstream.reset().await;
            }
            for _ in 0..SIZE >> 16 {
                ends.send(&"x".repeat(1 << 16)).await;
            }
            ends.expect(answer).await;
            ends.expect_close().await;
        });
    }
}

#[test]
fn a_half_closed_client_still_gets_its_response() {
    relay(async |mut ends| {
        ends.send(GET).await;
        ends.client.shutdown().await.expect("half-close");
        ends.upstream.expect(GET).await;
        let end = ends.upstream.stream().await.read(&mut [0]).await;
        assert_eq!(end.expect("end of stream"), 0);
        ends.upstream.send(OK).await;
        ends.expect(OK).await;
        ends.expect_close().await;
    });
}
