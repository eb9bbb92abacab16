;; Wants 256 MiB of memory from the start.
(module
  (memory (export "memory") 4096)
  (func (export "cabi_realloc") (param i32 i32 i32 i32) (result i32) (i32.const 1024))
  (func (export "tidegate:filter/http@0.1.0#configure") (param i32 i32) (result i32) (i32.const 16))
  (func (export "tidegate:filter/http@0.1.0#on-request")
    (param i32 i32 i32 i32 i32 i32 i32 i32 i32) (result i32) (i32.const 16))
  (func (export "tidegate:filter/http@0.1.0#on-response") (param i32 i32 i32) (result i32)
    (i32.const 16)))
