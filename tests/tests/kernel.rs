//! The kernel programs against the verifier and against a plain model of what they
//! must do. Needs root; attaches nothing.

use tidegate_tests::kernel::object::Object;

#[test]
fn the_verifier_accepts_every_program() {
    let object = Object::load(&[]).expect("maps");
    let names = object.programs();
    for name in &names {
        Object::load(&[name]).unwrap_or_else(|error| panic!("{error:?}"));
    }
}
