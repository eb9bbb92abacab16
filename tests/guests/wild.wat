;; Breaks the rules of the component model's own calls, which no compiler would. The first
;; letter of the configuration says how; see `a_guest_cannot_lie_to_the_runtime`.
(module
  (memory (export "memory") 1)
  (table 1 funcref)
  (global $how (mut i32) (i32.const 0))

  ;; "r": says that it put things where there is no memory. "s": never returns.
  (func (export "cabi_realloc") (param i32 i32 i32 i32) (result i32)
    (if (i32.eq (global.get $how) (i32.const 0x73)) (then (loop $for_ever (br $for_ever))))
    (select (i32.const -16) (i32.const 1024) (i32.eq (global.get $how) (i32.const 0x72))))

  (func (export "tidegate:filter/http@0.1.0#configure") (param $text i32) (param $length i32) (result i32)
    (if (local.get $length) (then (global.set $how (i32.load8_u (local.get $text)))))
    (i32.const 16))

  (func (export "tidegate:filter/http@0.1.0#on-request")
    (param i32 i32 i32 i32 i32 i32 i32 i32 i32) (result i32)
    ;; "p": the answer is where there is no memory.
    (if (i32.eq (global.get $how) (i32.const 0x70)) (then (return (i32.const -8))))
    ;; "d": an answer of no known kind.
    (if (i32.eq (global.get $how) (i32.const 0x64)) (then (i32.store8 (i32.const 16) (i32.const 77))))
    ;; "l": a denial whose text is longer than memory.
    (if (i32.eq (global.get $how) (i32.const 0x6c)) (then
      (i32.store8 (i32.const 16) (i32.const 1))
      (i32.store (i32.const 28) (i32.const -1))))
    ;; "u": a denial whose text is none.
    (if (i32.eq (global.get $how) (i32.const 0x75)) (then
      (i32.store8 (i32.const 16) (i32.const 1))
      (i32.store (i32.const 24) (i32.const 64))
      (i32.store (i32.const 28) (i32.const 1))
      (i32.store8 (i32.const 64) (i32.const 0xff))))
    ;; "t": a table of a million entries, or a trap.
    (if (i32.eq (global.get $how) (i32.const 0x74)) (then
      (if (i32.eq (table.grow (ref.null func) (i32.const 1000000)) (i32.const -1)) (then unreachable))))
    (i32.const 16))

  (func (export "tidegate:filter/http@0.1.0#on-response") (param i32 i32 i32) (result i32)
    (i32.const 16)))
