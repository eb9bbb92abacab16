wit_bindgen::generate!({world:"http-filter", path:"../../wit/filter@0.1.0"});
struct X;
use exports::tidegate::filter::http::*;
impl Guest for X {
    fn configure(_c: String) -> Result<Needs, String> {
        Ok(Needs {
            headers: vec![],
            responses: false,
        })
    }
    fn on_request(_: Method, _: String, _: String, _: String, _: Vec<u8>) -> Decision {
        Decision::Allow(None)
    }
    fn on_response(_: u16, _: Vec<u8>) -> Decision {
        Decision::Allow(None)
    }
}
export!(X);
