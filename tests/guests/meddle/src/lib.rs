//! A filter of HTTP exchanges that does what it is asked for: `x-see` of a message says what it
//! wants to see of the body, and its own bytes what it makes of them. It misbehaves on demand.

use tidegate_sdk::{
    Headers, Request, Response,
    exchange::{
        Body, BodyVerdict, ExchangeFilter, ExchangeNeeds, HttpExchange, LocalReply, See,
        TrailersVerdict, Verdict,
    },
};

struct Meddle;

/// How the exchange's bodies are dealt with.
#[derive(Default)]
struct Exchange {
    how: String,
    seen: usize,
}

impl ExchangeFilter for Meddle {
    type Exchange = Exchange;

    fn configure(_: &str) -> Result<(Self, ExchangeNeeds), String> {
        let needs = ExchangeNeeds::headers(["x-see", "x-how"]);
        Ok((Self, needs.and_responses(["x-see", "x-how"])))
    }

    fn begin(&self) -> Exchange {
        Exchange::default()
    }
}

impl Exchange {
    fn head(&mut self, headers: &Headers) -> Verdict {
        let see = headers.get_str("x-see").unwrap_or_default();
        self.how = headers.get_str("x-how").unwrap_or_default().to_owned();
        self.seen = 0;
        let (what, size) = see.split_once('=').unwrap_or((see, "1000"));
        let size = size.parse().unwrap_or(1_000);
        match what {
            "whole" => Verdict::pass().and_see(See::Whole(size)),
            "skip" => Verdict::pass().and_see(See::WholeIfNotLonger(size)),
            "window" => Verdict::pass().and_see(See::Window(size)),
            "reply" => {
                Verdict::reply(LocalReply::new(201, "made here\n").with_header("X-Made", "here"))
            }
            _ => Verdict::pass(),
        }
    }

    fn body(&mut self, body: Body<'_>) -> BodyVerdict {
        self.seen += body.bytes.len();
        match &*self.how {
            "trap" => panic!("on demand"),
            "spin" => loop {
                std::hint::black_box(());
            },
            // Of what is the end, too.
            "hold" => BodyVerdict::hold(),
            "greed" => BodyVerdict::pass_first(body.bytes.len() + 1),
            "late" => BodyVerdict::pass_first(body.bytes.len()).and_set_header("x-late", "1"),
            "flood" => BodyVerdict::replace_first(body.bytes.len(), vec![b'f'; 2 << 20]),
            "upper" => {
                BodyVerdict::replace_first(body.bytes.len(), body.bytes.to_ascii_uppercase())
            }
            "twice" => {
                BodyVerdict::replace_first(body.bytes.len(), [body.bytes, body.bytes].concat())
            }
            "nothing" => BodyVerdict::replace_first(body.bytes.len(), Vec::new()),
            "length" => BodyVerdict::pass_first(body.bytes.len())
                .and_set_header("x-length", body.bytes.len().to_string()),
            "refuse" if self.seen > 5 || body.end => {
                BodyVerdict::reply(LocalReply::new(422, "unwanted\n").with_header("X-Why", "body"))
            }
            _ => BodyVerdict::pass(),
        }
    }
}

impl HttpExchange for Exchange {
    fn on_request(&mut self, request: &Request) -> Verdict {
        self.head(&request.headers)
    }

    fn on_request_body(&mut self, body: Body<'_>) -> BodyVerdict {
        self.body(body)
    }

    fn on_request_trailers(&mut self, trailers: &Headers) -> TrailersVerdict {
        let count = trailers.iter().count();
        TrailersVerdict::pass().and_set("x-trailers", count.to_string())
    }

    fn on_response(&mut self, response: &Response) -> Verdict {
        self.head(&response.headers)
    }

    fn on_response_body(&mut self, body: Body<'_>) -> BodyVerdict {
        self.body(body)
    }

    fn on_response_trailers(&mut self, trailers: &Headers) -> TrailersVerdict {
        let count = trailers.iter().count();
        TrailersVerdict::pass().and_set("x-trailers", count.to_string())
    }
}

tidegate_sdk::exchange_filter!(Meddle, { "name": "meddle", "version": "1.0.0", "capabilities": [] });
