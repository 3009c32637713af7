;; alloc traps; there is no input buffer.
(module
  (memory (export "memory") 2)
  (func (export "headgate_abi_1"))
  (func (export "alloc") (param i32) (result i32) unreachable)
  (func (export "pre_query") (param i32 i32) (result i64) (i64.const 0)))
